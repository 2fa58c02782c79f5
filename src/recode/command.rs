//! Coding at somebody's wish: settle and recode, and ending them.

use super::{How, PATIENCE, Recoder, Rested, SettleReport};
use crate::blocks::ReadError;
use crate::store::StoreError;
use crate::types::Ino;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// A command while it lasts. The background waits for it.
#[derive(Debug)]
pub struct Command<'a> {
    recoder: &'a Recoder,
    halt: Arc<AtomicBool>,
}

impl Drop for Command<'_> {
    fn drop(&mut self) {
        self.recoder.commands.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Recoder {
    /// Begins a command.
    pub fn command(&self) -> Command<'_> {
        let halt = self.halt.lock().unwrap_or_else(PoisonError::into_inner);
        self.commands.fetch_add(1, Ordering::SeqCst);
        Command { recoder: self, halt: Arc::clone(&halt) }
    }

    /// Ends the commands that are under way, and waits for them; false if there are none. What they have
    /// coded stays.
    pub fn stop_commands(&self) -> bool {
        let ours = {
            let mut halt = self.halt.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *halt)
        };
        ours.store(true, Ordering::SeqCst);
        let held = || Arc::strong_count(&ours) > 1;
        let any = held();
        let began = Instant::now();
        while held() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
        any
    }

    /// Codes all that waits, now, of these inodes or of all; `progress(done, total)` in bytes of files.
    pub fn settle(
        &self,
        inos: Option<Vec<Ino>>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SettleReport, ReadError> {
        self.command().settle(inos, progress)
    }
}

impl Command<'_> {
    /// True once it was told to end, or the store is being closed.
    pub fn is_stopped(&self) -> bool {
        self.recoder.go_on(&self.halt).is_err()
    }

    /// Codes all that waits, now, of these inodes or of all; `progress(done, total)` in bytes of files.
    pub fn settle(
        &self,
        inos: Option<Vec<Ino>>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SettleReport, ReadError> {
        let inos = match inos {
            Some(inos) => inos,
            None => self.recoder.store().staged_inodes()?,
        };
        self.reported(|report| {
            // A write between planning and swapping costs another round; a busy writer is not chased.
            for _ in 0..3 {
                let total = self.total(&inos, Rested::ALL)?;
                if total == 0 {
                    break;
                }
                self.all(&inos, Rested::ALL, total, report, progress)?;
            }
            Ok(())
        })
    }

    /// Codes all of these inodes anew, as their models say now; `progress(done, total)` in bytes of files.
    pub fn recode(
        &self,
        inos: &[Ino],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SettleReport, ReadError> {
        self.reported(|report| {
            let total = self.total(inos, Rested::AGAIN)?;
            self.all(inos, Rested::AGAIN, total, report, progress)
        })
    }

    /// Codes anew what is left of shared frames whose files were changed or removed for the greater part.
    pub fn gather(&self) -> Result<SettleReport, ReadError> {
        self.reported(|report| {
            let mut place = 0;
            loop {
                let inos = self.recoder.store().thinly_held(&mut place)?;
                let total = self.total(&inos, Rested::AGAIN)?;
                self.all(&inos, Rested::AGAIN, total, report, &mut |_, _| {})?;
                if place == 0 {
                    return Ok(());
                }
            }
        })
    }

    /// Bytes that are ready to be coded.
    fn total(&self, inos: &[Ino], rested: Rested) -> Result<u64, ReadError> {
        let mut total = 0;
        for &ino in inos {
            self.recoder.go_on(&self.halt)?;
            self.recoder.plan(ino, rested, |run| {
                total += run.len;
                Ok(())
            })?;
        }
        Ok(total)
    }

    /// Codes what is ready, of `total` bytes, on all cores.
    fn all(
        &self,
        inos: &[Ino],
        rested: Rested,
        total: u64,
        report: &mut SettleReport,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), ReadError> {
        let mut done = 0;
        progress(0, total);
        let how = How { threads: self.recoder.settle_threads(), idle: false, halt: &self.halt };
        self.recoder.code(inos, rested, how, report, &mut |len| {
            done += len;
            progress(done, total.max(done));
        })
    }

    /// What `work` came to, durable. That it was stopped stands in the report.
    fn reported(
        &self,
        work: impl FnOnce(&mut SettleReport) -> Result<(), ReadError>,
    ) -> Result<SettleReport, ReadError> {
        let began = Instant::now();
        let before_bytes = self.recoder.frame_bytes()?;
        let mut report = SettleReport { before_bytes, ..SettleReport::default() };
        match work(&mut report) {
            Err(ReadError::Store(StoreError::Stopped)) => report.stopped = true,
            done => done?,
        }
        self.recoder.store().sync()?;
        report.ms = began.elapsed().as_millis() as u64;
        report.after_bytes = self.recoder.frame_bytes()?;
        Ok(report)
    }
}
