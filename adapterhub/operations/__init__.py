"""Pure functions from adapters to adapters. Only here and in `train` may torch be imported, and by no module that renames."""
