//! Decoded blocks by frame: least recently used out first, bounded in bytes; one flight per block.
