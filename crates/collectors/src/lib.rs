//! The built-in collectors, one noun per file.
