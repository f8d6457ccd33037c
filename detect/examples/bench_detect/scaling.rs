//! Two cores against one. What a virtual machine calls two processors may be two threads of one core, and may change: so a plain
//! calculation that shares nothing tells first which pair of processors is two cores now, and stands beside ours as what was to be had.

use std::{hint::black_box, sync::Barrier, thread, time::Duration};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{Failure, cpu_time, median};

/// Turns for each pair; the median counts.
const TURNS: usize = 5;
/// So many processors are paired with each other.
const MOST: usize = 6;

/// What two processors do together, as a multiple of what one of them does.
pub(crate) struct Scaling {
    pub(crate) processors: (usize, usize),
    /// Of the calculation.
    pub(crate) calculation: f64,
    /// Of what was asked about.
    pub(crate) asked: f64,
}

/// `rate` gives what one thread gets done in a second of its own processor time. It is asked on the pair that scales the calculation best.
pub(crate) fn two_cores(time: Duration, rate: impl Fn(Duration) -> f64 + Sync) -> Result<Scaling, Failure> {
    let allowed = sched_getaffinity(None)?;
    let processors: Vec<_> = (0..CpuSet::MAX_CPU).filter(|n| allowed.is_set(*n)).take(MOST).collect();
    let pairs = processors
        .iter()
        .enumerate()
        .flat_map(|(at, one)| processors.iter().skip(at + 1).map(move |other| (*one, *other)));
    let mut best: Option<(f64, (usize, usize))> = None;
    for pair in pairs {
        let scaled = ratio(pair, time / 20, &calculate)?;
        if best.is_none_or(|(most, _)| scaled > most) {
            best = Some((scaled, pair));
        }
    }
    let (_, processors) = best.ok_or("one processor alone cannot be compared with two")?;
    // Turn by turn, so that what else the machine does falls on both.
    let (mut calculation, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        calculation.push(ratio_once(processors, time / 4, &calculate)?);
        asked.push(ratio_once(processors, time, &rate)?);
    }
    Ok(Scaling { processors, calculation: median(calculation), asked: median(asked) })
}

fn ratio(
    pair: (usize, usize),
    time: Duration,
    rate: &(impl Fn(Duration) -> f64 + Sync),
) -> Result<f64, Failure> {
    let turns = (0..TURNS).map(|_| ratio_once(pair, time, rate));
    Ok(median(turns.collect::<Result<_, _>>()?))
}

fn ratio_once(
    (one, other): (usize, usize),
    time: Duration,
    rate: &(impl Fn(Duration) -> f64 + Sync),
) -> Result<f64, Failure> {
    let alone = (together(&[one], time, rate)? + together(&[other], time, rate)?) / 2.0;
    Ok(together(&[one, other], time, rate)? / alone)
}

/// The sum of the rates of one thread on each of `processors`, all at the same time.
fn together(
    processors: &[usize],
    time: Duration,
    rate: &(impl Fn(Duration) -> f64 + Sync),
) -> Result<f64, Failure> {
    let start = Barrier::new(processors.len());
    thread::scope(|scope| {
        let running: Vec<_> = processors
            .iter()
            .map(|processor| {
                let start = &start;
                scope.spawn(move || {
                    let mut only = CpuSet::new();
                    only.set(*processor);
                    let pinned = sched_setaffinity(None, &only);
                    start.wait();
                    pinned.map(|()| rate(time))
                })
            })
            .collect();
        let mut sum = 0.0;
        for thread in running {
            sum += thread.join().map_err(|_| "a thread of the bench ended early")??;
        }
        Ok(sum)
    })
}

/// Multiplications that keep the units of a core busy, in registers; rounds a second of the thread's processor time.
#[expect(clippy::cast_precision_loss, reason = "a count for a rate")]
fn calculate(time: Duration) -> f64 {
    const LANES: usize = 8;
    const ROUNDS: usize = 100_000;
    let begun = cpu_time();
    let mut done = 0_u64;
    let mut lanes: [u64; LANES] = std::array::from_fn(|n| black_box(n as u64 + 1));
    loop {
        for _ in 0..ROUNDS {
            for lane in &mut lanes {
                *lane ^= lane.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7);
            }
        }
        black_box(&mut lanes);
        done += 1;
        let taken = cpu_time().saturating_sub(begun);
        if taken >= time {
            return done as f64 / taken.as_secs_f64();
        }
    }
}
