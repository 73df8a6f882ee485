"""The tables of the registry, as a list of steps that is only ever added to: each is applied once to every database.

    records   one a file, or a folder that is one adapter or model: what it is
    files     the files on disk that a record consists of, and those beside it: side-cars and the preview
    hashes    the digests of a file, of whatever name people quote
    facts     what is said about a record and by whom: its header, side-cars, applications, the user
    traits    what records are filtered by; follows from records and facts
    texts     what is searched for, with an index (FTS5) that triggers keep in step; follows from records and facts
    recipes   how a file came to be: the command, its parameters
    parents   what a recipe was made of, by digest
    lookups   what others answered when they were asked for a hash

`roots` are the folders that were indexed, `metadata` is the text of the headers, and `passed` are files that are none of ours.

Views are for people: `adapters`, `lineage`, `same_file`, `same_adapter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlite_utils import Migrations

from adapterhub.registry.storing import SEARCHED

if TYPE_CHECKING:
    from sqlite_utils import Database

MIGRATIONS = Migrations("adapterhub")

_FIRST = (
    """
    CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        path NOT NULL UNIQUE,              -- text; the bytes of a name that is no UTF-8
        folder NOT NULL,                   -- what the path lies in
        name TEXT NOT NULL,                -- for people: without folder and suffix, printable
        application TEXT,                  -- whose folder it was found in
        kind TEXT NOT NULL CHECK (kind IN ('lora', 'embedding', 'hypernetwork', 'checkpoint', 'unknown')),
        container TEXT, layout TEXT, architecture TEXT, variant TEXT,
        rank INTEGER,                      -- the largest
        tensors INTEGER, parameters INTEGER,
        size INTEGER NOT NULL,             -- bytes, of all its files
        modified TEXT NOT NULL,            -- UTC, of its newest file
        added TEXT NOT NULL,               -- UTC, when it came into the registry
        missing TEXT,                      -- UTC, since when it is gone from the disk
        refused TEXT,                      -- the rule that it breaks: nothing more is known of it then
        reason TEXT,                       -- why it was refused, for people
        sha256 TEXT,                       -- of its file; of several that of their list, as sha256sum prints it
        fingerprint TEXT,
        sketch BLOB,                       -- float32: what a few fixed directions see of its change
        hashed INTEGER NOT NULL DEFAULT 0, -- whether hashes, fingerprint and sketch are those of the files
        details TEXT NOT NULL DEFAULT '{}' -- JSON: what adapterhub inspect says beside the columns
    )
    """,
    "CREATE INDEX records_folder ON records (folder)",
    "CREATE INDEX records_name ON records (name COLLATE NOCASE)",
    "CREATE INDEX records_kind ON records (kind)",
    "CREATE INDEX records_architecture ON records (architecture)",
    "CREATE INDEX records_layout ON records (layout)",
    "CREATE INDEX records_size ON records (size)",
    "CREATE INDEX records_modified ON records (modified)",
    "CREATE INDEX records_sha256 ON records (sha256) WHERE sha256 IS NOT NULL",
    "CREATE INDEX records_fingerprint ON records (fingerprint) WHERE fingerprint IS NOT NULL",
    "CREATE INDEX records_unhashed ON records (size) WHERE hashed = 0",
    "CREATE INDEX records_missing ON records (missing) WHERE missing IS NOT NULL",
    """
    CREATE TABLE roots (                   -- what was given to index
        path PRIMARY KEY
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE metadata (
        record_id INTEGER PRIMARY KEY REFERENCES records (id) ON DELETE CASCADE,
        fields TEXT NOT NULL               -- JSON: the text fields of its header
    )
    """,
    """
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        record_id INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
        path NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('content', 'sidecar', 'preview')),
        device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        UNIQUE (record_id, path)
    )
    """,
    "CREATE INDEX files_inode ON files (inode, device)",
    """
    CREATE TABLE hashes (
        file_id INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
        name TEXT NOT NULL,                -- sha256, autov1, autov2, autov3, sshs_model_hash, …
        value TEXT NOT NULL,               -- lower-case hexadecimal
        PRIMARY KEY (file_id, name)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX hashes_value ON hashes (value, name)",
    """
    CREATE TABLE facts (
        record_id INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
        origin TEXT NOT NULL,              -- user, a1111, lora-manager, stability-matrix, civitai, modelspec, kohya, …
        field TEXT NOT NULL,               -- title, description, words, tags, notes, base_model, …
        value TEXT NOT NULL,               -- JSON
        PRIMARY KEY (record_id, field, origin)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE traits (
        trait TEXT NOT NULL,               -- algorithm, rank, component, dtype, token, word, tag, alias, problem
        value TEXT NOT NULL COLLATE NOCASE,
        record_id INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
        PRIMARY KEY (trait, value, record_id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX traits_record ON traits (record_id)",
    """
    CREATE TABLE texts (
        record_id INTEGER PRIMARY KEY REFERENCES records (id) ON DELETE CASCADE,
        name TEXT NOT NULL, words TEXT NOT NULL, tags TEXT NOT NULL,
        notes TEXT NOT NULL, description TEXT NOT NULL, training TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE passed (                  -- files that were looked at and hold nothing of ours, so that nobody looks again
        path PRIMARY KEY,
        device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE recipes (
        id INTEGER PRIMARY KEY,
        sha256 TEXT NOT NULL UNIQUE,       -- of the file that was made
        name TEXT NOT NULL,
        command TEXT NOT NULL,
        version TEXT,                      -- of adapterhub, where it made the file
        parameters TEXT NOT NULL DEFAULT '{}',
        output TEXT NOT NULL DEFAULT '',   -- what it was called; a folder with a slash behind it
        path,                              -- where it was written, where that is known
        recorded TEXT NOT NULL             -- UTC
    )
    """,
    """
    CREATE TABLE parents (
        recipe_id INTEGER NOT NULL REFERENCES recipes (id) ON DELETE CASCADE,
        place INTEGER NOT NULL,            -- 0 for the first
        name TEXT NOT NULL,
        path,
        sha256 TEXT, fingerprint TEXT,
        PRIMARY KEY (recipe_id, place)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX parents_sha256 ON parents (sha256)",
    "CREATE INDEX parents_fingerprint ON parents (fingerprint)",
    """
    CREATE VIEW adapters AS
    SELECT id, name, kind, architecture, variant, layout, rank, round(size / 1e6, 1) AS megabytes, modified, path,
        (SELECT group_concat(value, ', ') FROM traits WHERE record_id = records.id AND trait IN ('token', 'word')) AS words,
        (SELECT group_concat(value, ', ') FROM traits WHERE record_id = records.id AND trait = 'tag') AS tags
    FROM records WHERE missing IS NULL
    """,
    """
    CREATE VIEW same_file AS
    SELECT sha256, count(*) AS copies, group_concat(path, char(10)) AS paths
    FROM records WHERE sha256 IS NOT NULL AND missing IS NULL GROUP BY sha256 HAVING count(*) > 1
    """,
    """
    CREATE VIEW same_adapter AS
    SELECT fingerprint, count(*) AS files, group_concat(layout, ', ') AS layouts, group_concat(path, char(10)) AS paths
    FROM records WHERE fingerprint IS NOT NULL AND missing IS NULL GROUP BY fingerprint HAVING count(*) > 1
    """,
    """
    CREATE VIEW lineage AS
    SELECT recipes.name AS child, command, parents.name AS parent, recipes.sha256 AS child_sha256,
        parents.sha256 AS parent_sha256, parents.fingerprint AS parent_fingerprint, recorded
    FROM recipes JOIN parents ON parents.recipe_id = recipes.id
    """,
)  # fmt: skip


@MIGRATIONS()  # type: ignore[untyped-decorator]
def first(db: Database) -> None:
    """The tables of version 0.1."""
    for statement in _FIRST:
        db.execute(statement)
    db["texts"].enable_fts(SEARCHED, create_triggers=True, tokenize="unicode61 remove_diacritics 2")


@MIGRATIONS()  # type: ignore[untyped-decorator]
def lookups(db: Database) -> None:
    """The answers to look-ups by hash, so that nobody asks twice."""
    db.execute("""
        CREATE TABLE lookups (
            hash TEXT PRIMARY KEY,             -- SHA-256, lower-case hexadecimal
            answered TEXT NOT NULL,            -- UTC
            body TEXT                          -- JSON as it came; null where nothing was known
        ) WITHOUT ROWID
        """)
