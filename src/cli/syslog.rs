//! The log of a daemon without a terminal: syslog(3).

use log::{Level, Log, Metadata, Record};
use std::ffi::CString;

struct Syslog(log::LevelFilter);

impl Log for Syslog {
    fn enabled(&self, m: &Metadata<'_>) -> bool {
        let ours = m.target().starts_with("lmfs");
        m.level() <= if ours { self.0 } else { log::LevelFilter::Warn }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let priority = match record.level() {
            Level::Error => libc::LOG_ERR,
            Level::Warn => libc::LOG_WARNING,
            Level::Info => libc::LOG_INFO,
            Level::Debug | Level::Trace => libc::LOG_DEBUG,
        };
        let Ok(text) = CString::new(record.args().to_string().replace('\0', " ")) else { return };
        // SAFETY: both strings are NUL-terminated and outlive the call.
        unsafe { libc::syslog(libc::LOG_DAEMON | priority, c"%s".as_ptr(), text.as_ptr()) };
    }

    fn flush(&self) {}
}

/// Logs to syslog from now on.
pub fn init(level: log::LevelFilter) {
    // SAFETY: the identity is a static string.
    unsafe { libc::openlog(c"lmfs".as_ptr(), libc::LOG_PID, libc::LOG_DAEMON) };
    if log::set_boxed_logger(Box::new(Syslog(level))).is_ok() {
        log::set_max_level(level.max(log::LevelFilter::Warn));
    }
}
