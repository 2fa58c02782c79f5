//! Token stream to bits and back: tree, mixer, experts, match model, range coder. Integers only.
