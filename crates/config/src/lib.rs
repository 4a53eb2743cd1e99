//! Layered configuration with errors that name the key, the layer and the fix.
