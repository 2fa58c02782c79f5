//! Opening a store whose last daemon is on its way out: unmounted already, it still writes what is left.

use super::{FAILED, Failure};
use crate::control;
use crate::store::{OpenOptions, Store, StoreError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// When to say so.
const SAID: Duration = Duration::from_secs(1);
/// Who answers requests all this time serves a mount, and is not waited for. A daemon stops to answer
/// some moments after its mount has gone.
const SERVES: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(20);

/// Opens a store; waits, and says so, while its user is one that is about to go.
pub fn open(
    path: &Path,
    options: &OpenOptions,
    say: &mut dyn FnMut(&str),
) -> Result<Arc<Store>, Failure> {
    let began = Instant::now();
    let (mut answers_since, mut said) = (None, false);
    loop {
        let (pid, e) = match Store::open(path, options) {
            Err(e) => match &e {
                StoreError::InUse { pid, .. } => (pid.to_string(), e),
                StoreError::ReadOnlyMedium { path } => {
                    let text = format!("{path} lies on a read-only medium: mount it with -o ro");
                    return Err(Failure::new(FAILED, text));
                }
                _ => return Err(e.into()),
            },
            Ok(store) => return Ok(store),
        };
        let waited = began.elapsed();
        if control::listens(path) {
            if answers_since.get_or_insert(waited).saturating_add(SERVES) <= waited {
                return Err(e.into());
            }
        } else {
            answers_since = None;
        }
        if waited >= PATIENCE {
            let f = Failure::from(e);
            let text = format!("{}; waited {} s for it to close", f.message, PATIENCE.as_secs());
            return Err(Failure { message: text, ..f });
        }
        if waited >= SAID && !said && answers_since.is_none() {
            said = true;
            say(&format!(
                "waiting for process {pid} to close {}; for {} s at most",
                path.display(),
                PATIENCE.as_secs()
            ));
        }
        std::thread::sleep(STEP);
    }
}
