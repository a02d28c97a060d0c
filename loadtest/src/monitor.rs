//! Watches the server's process during a run: processors, memory, file descriptors, threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::report::{Report, Series, float};
use crate::scenario::mebibytes;
use crate::server::{Usage, usage};

/// How often a process is looked at first.
const EVERY: Duration = Duration::from_millis(250);
/// Readings that are kept; beyond it every other one is let go, and readings are taken half as often.
const READINGS: usize = 1_200;

/// One look at the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// Since the watch began.
    pub(crate) at: Duration,
    /// What the process had used.
    pub(crate) usage: Usage,
}

/// A process, which another one may follow when it has ended.
pub(crate) type Process = Arc<AtomicU32>;

/// A watch over a process, and over those that follow it.
#[derive(Debug)]
pub(crate) struct Monitor {
    readings: Arc<Mutex<Vec<Reading>>>,
    /// Ended with the monitor.
    watch: JoinSet<()>,
}

impl Monitor {
    /// Starts to watch a process.
    pub(crate) fn start(pid: u32) -> Self {
        Self::follow(Process::new(pid.into()))
    }

    /// As [`Self::start`]; whatever process is put into its place later is watched from then on.
    pub(crate) fn follow(process: Process) -> Self {
        let readings = Arc::new(Mutex::new(Vec::new()));
        let mut watch = JoinSet::new();
        watch.spawn(look(process, Arc::clone(&readings)));
        Self { readings, watch }
    }

    /// What was seen so far.
    pub(crate) fn readings(&self) -> Vec<Reading> {
        self.readings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends the watch, and tells it to a report; answers the time of processors between first and last reading.
    pub(crate) async fn tell(mut self, name: &str, report: &mut Report) -> Option<Duration> {
        self.watch.shutdown().await;
        let readings = self.readings();
        let (first, last) = (readings.first()?, readings.last()?);
        let used = last.usage.cpu.saturating_sub(first.usage.cpu);
        let highest = readings.iter().map(|reading| reading.usage.rss).max();
        report.figure(
            format!("{name}: CPU, all of the run"),
            used.as_secs_f64(),
            "s",
        );
        report.figure(
            format!("{name}: memory at most"),
            mebibytes(highest.unwrap_or_default()),
            "MiB",
        );
        let memory = readings.iter();
        report.series(Series {
            plot: "memory, MiB".to_owned(),
            name: name.to_owned(),
            axis: "s".into(),
            points: memory
                .map(|reading| (reading.at.as_secs_f64(), mebibytes(reading.usage.rss)))
                .collect(),
        });
        report.series(Series {
            plot: "processors busy".to_owned(),
            name: name.to_owned(),
            axis: "s".into(),
            points: busy(&readings),
        });
        let descriptors = readings.iter();
        report.series(Series {
            plot: "open file descriptors".to_owned(),
            name: name.to_owned(),
            axis: "s".into(),
            points: descriptors
                .map(|reading| (reading.at.as_secs_f64(), float(reading.usage.descriptors)))
                .collect(),
        });
        Some(used)
    }
}

fn busy(readings: &[Reading]) -> Vec<(f64, f64)> {
    // The kernel counts in steps of 10 ms: over a second that is one in a hundred.
    let spaced = readings
        .iter()
        .step_by(4)
        .zip(readings.iter().skip(4).step_by(4));
    spaced
        .map(|(before, after)| {
            let used = after.usage.cpu.saturating_sub(before.usage.cpu);
            let time = after.at.saturating_sub(before.at);
            (
                after.at.as_secs_f64(),
                used.as_secs_f64() / time.as_secs_f64().max(1e-3),
            )
        })
        .collect()
}

async fn look(process: Process, readings: Arc<Mutex<Vec<Reading>>>) {
    let began = Instant::now();
    let mut every = EVERY;
    let mut pid = process.load(Ordering::Relaxed);
    // What the processes before this one had used.
    let (mut before, mut last) = (Duration::ZERO, Duration::ZERO);
    loop {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let present = process.load(Ordering::Relaxed);
            if present != pid {
                (pid, before) = (present, last);
            }
            // It has ended, and another one may follow.
            let Ok(mut usage) = usage(pid) else { continue };
            usage.cpu += before;
            last = usage.cpu;
            let at = began.elapsed();
            let mut readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
            readings.push(Reading { at, usage });
            if readings.len() >= READINGS {
                let mut keep = false;
                readings.retain(|_| {
                    keep = !keep;
                    keep
                });
                every *= 2;
                break;
            }
        }
    }
}

/// A straight line through points, by least squares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slope {
    /// Growth for each step of the horizontal axis.
    pub(crate) slope: f64,
    /// Standard error of the growth.
    pub(crate) error: f64,
}

/// The line through points; `None` for fewer than three, or where all have the same place.
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let count = float(u64::try_from(points.len()).ok()?);
    if count < 3.0 {
        return None;
    }
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread = points
        .iter()
        .map(|(x, _)| (x - mean_x).powi(2))
        .sum::<f64>();
    if spread <= 0.0 {
        return None;
    }
    let together = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y));
    let slope = together.sum::<f64>() / spread;
    let rest = points
        .iter()
        .map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2))
        .sum::<f64>();
    Some(Slope {
        slope,
        error: (rest / (count - 2.0) / spread).sqrt(),
    })
}

/// The mean points of at most so many parts, which follow each other and have as many points each, the last one perhaps fewer.
pub(crate) fn means(points: &[(f64, f64)], parts: usize) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(parts.max(1)).max(1);
    let mean = |part: &[(f64, f64)]| {
        let count = float(u64::try_from(part.len()).unwrap_or(u64::MAX));
        let (x, y) = part
            .iter()
            .fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / count, y / count)
    };
    points.chunks(each).map(mean).collect()
}

/// Points without what follows another measure that was taken at each of them: a line through them has the growth that
/// the other one does not explain.
pub(crate) fn without(points: &[(f64, f64)], other: &[f64]) -> Vec<(f64, f64)> {
    let share = |of: fn(&(f64, f64)) -> f64| {
        let pairs: Vec<_> = other.iter().copied().zip(points.iter().map(of)).collect();
        slope(&pairs).map_or(0.0, |line| line.slope)
    };
    let (of_x, of_y) = (share(|it| it.0), share(|it| it.1));
    let pairs = points.iter().zip(other);
    pairs
        .map(|((x, y), other)| (x - of_x * other, y - of_y * other))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_measure_explains_is_no_growth() {
        let waves: Vec<_> = (0..60)
            .map(|x| f64::from(x % 7) + f64::from(x) / 9.0)
            .collect();
        let points: Vec<_> = (0..60)
            .map(f64::from)
            .zip(&waves)
            .map(|(x, wave)| (x, 4.0 + 0.5 * x + 3.0 * wave))
            .collect();
        let found = slope(&without(&points, &waves)).unwrap();
        assert!(
            (found.slope - 0.5).abs() < 1e-9 && found.error < 1e-9,
            "{found:?}"
        );
        let steady = slope(&without(&points, &[1.0; 60])).unwrap();
        assert_eq!(steady, slope(&points).unwrap());
    }

    #[test]
    fn waves_within_a_part_are_no_growth() {
        let wave = |x: u32| (f64::from(x), f64::from(x % 10));
        let points: Vec<_> = (0..240).map(wave).collect();
        let parts = means(&points, 24);
        assert_eq!(parts.first(), Some(&(4.5, 4.5)));
        assert_eq!(
            (parts.len(), slope(&parts)),
            (
                24,
                Some(Slope {
                    slope: 0.0,
                    error: 0.0
                })
            )
        );
        assert_eq!(means(&points[..3], 24), points[..3]);
        assert_eq!(means(&[], 24), []);
    }

    #[test]
    fn a_line_has_its_slope_and_noise_its_error() {
        let line: Vec<_> = (0..100)
            .map(f64::from)
            .map(|x| (x, 3.0 + 0.5 * x))
            .collect();
        let found = slope(&line).unwrap();
        assert!((found.slope - 0.5).abs() < 1e-9 && found.error < 1e-9);
        let saw: Vec<_> = (0..100)
            .map(|x| (f64::from(x), f64::from(x % 10)))
            .collect();
        let found = slope(&saw).unwrap();
        assert!(found.slope.abs() < 3.0 * found.error.max(1e-3), "{found:?}");
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    }

    #[tokio::test]
    async fn a_process_is_watched_and_told() {
        let monitor = Monitor::start(std::process::id());
        tokio::time::sleep(EVERY * 3).await;
        assert!(monitor.readings().len() >= 2);
        let mut report = Report::new("x");
        assert!(monitor.tell("server", &mut report).await.is_some());
    }

    #[tokio::test]
    async fn a_process_that_follows_another_adds_to_it() {
        let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 60";
        let run = || {
            let mut command = tokio::process::Command::new("sh");
            command.args(["-c", busy]).kill_on_drop(true).spawn()
        };
        let (first, second) = (run().unwrap(), run().unwrap());
        let [first_pid, second_pid] = [&first, &second].map(|it| it.id().unwrap());
        let of = |pid| usage(pid).unwrap().cpu;
        while of(first_pid).is_zero() || of(second_pid).is_zero() {
            tokio::time::sleep(EVERY).await;
        }
        let process = Process::new(first_pid.into());
        let monitor = Monitor::follow(Arc::clone(&process));
        tokio::time::sleep(EVERY * 2).await;
        let seen = monitor.readings().last().unwrap().usage.cpu;
        drop(first);
        process.store(second_pid, Ordering::Relaxed);
        tokio::time::sleep(EVERY * 3).await;
        let readings = monitor.readings();
        assert!(readings.is_sorted_by_key(|it| it.usage.cpu));
        assert!(seen < readings.last().unwrap().usage.cpu);
    }
}
