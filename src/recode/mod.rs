//! The background coder: queue, policy, worker.
