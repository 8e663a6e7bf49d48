//! The only place where protocol meets filesystem.
