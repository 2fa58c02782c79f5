//! Against a model kept in memory.
