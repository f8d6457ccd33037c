//! Several kinds of work together, each at its own rate.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::storm;

/// Work is done in slices of this length; a slice that took longer than it should is not made up for.
const SLICE: Duration = Duration::from_millis(10);

pub(crate) fn mix(seconds: u64, files: u64, execs: u64, connects: u64, folder: &Path) -> Result<Value> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let this = std::env::current_exe().context("find this program")?;
    let folder = folder.to_path_buf();
    let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
    let address = listener.local_addr().context("ask for the port")?;
    let accepted = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&accepted);
    // Ends with the program: nobody waits for it.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drop(stream);
            counted.fetch_add(1, Ordering::Release);
        }
    });
    let file_storm = thread::spawn(move || {
        at_rate(files, until, |index| storm::create_one(&folder.join(format!("mix-{index}"))))
    });
    let exec_storms: Vec<_> = (0..2_u64)
        .map(|lane| {
            let this = this.clone();
            thread::spawn(move || {
                at_rate(execs / 2, until, |index| storm::start_one(&this, &format!("mix-{lane}-{index}")))
            })
        })
        .collect();
    let connect_storm = thread::spawn(move || {
        at_rate(connects, until, |_| TcpStream::connect(address).map(drop).context("connect on loopback"))
    });
    let mut execs_done = 0;
    for storm in exec_storms {
        execs_done += storm.join().map_err(|_| anyhow::anyhow!("an exec storm panicked"))??;
    }
    let creates = file_storm.join().map_err(|_| anyhow::anyhow!("the file storm panicked"))??;
    let connected = connect_storm.join().map_err(|_| anyhow::anyhow!("the connect storm panicked"))??;
    let patience = Instant::now() + Duration::from_secs(10);
    while accepted.load(Ordering::Acquire) < connected && Instant::now() < patience {
        thread::sleep(SLICE);
    }
    let accepts = accepted.load(Ordering::Acquire);
    Ok(json!({"creates": creates, "execs": execs_done, "connects": connected, "accepts": accepts}))
}

/// Does `work` at `per_second` until the end, or as fast as it goes if that is slower; gives how often it was done.
fn at_rate(per_second: u64, until: Instant, mut work: impl FnMut(u64) -> Result<()>) -> Result<u64> {
    let slices_per_second = 1000 / SLICE.as_millis().max(1) as u64;
    let mut done = 0;
    let mut owed = 0.0;
    while Instant::now() < until && per_second > 0 {
        let begun = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
        let share = per_second as f64 / slices_per_second as f64;
        owed = (owed + share).min(share * 2.0);
        while owed >= 1.0 && Instant::now() < until {
            work(done)?;
            done += 1;
            owed -= 1.0;
            if begun.elapsed() > SLICE {
                break;
            }
        }
        thread::sleep(SLICE.saturating_sub(begun.elapsed()));
    }
    Ok(done)
}
