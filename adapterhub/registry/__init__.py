"""The registry: an SQLite database that knows a file again, and where it came from.

`index` fills it, `find` asks it, `edit` keeps what a person says about a record, `kin` finds the same again, `lineage` follows
what was made of what. `verify` and `doctor` say whether files and database are still sound, `backup` keeps the database, `export` and
`importing` tell it to another, `lock` and `sync` keep the exact files of a project. Tables are in `migrations`; sqlite-utils writes
them, and questions go to sqlite3 directly, because a question must not cost more than its answer.
"""
