"""The files of a run on disk: one schema a file, which its writer constructs and its reader parses. Without torch."""
