//! The project: which events an operation causes, or why none do.
