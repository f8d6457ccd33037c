//! Storms of ordinary work. Each prints one JSON line: how many operations it did, and in how long.
//!
//! Time is taken around the storm itself, so that the start of this program does not count.

mod pace;
mod storm;

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::json;

#[derive(Parser)]
#[command(name = "workload", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    storm: Storm,
}

#[derive(Subcommand)]
enum Storm {
    /// Start a program that ends at once, one after the other.
    Exec { count: u64 },
    /// Open and close a file that is there.
    Open { count: u64 },
    /// Create and remove a file.
    Create {
        count: u64,
        /// Folder for the files.
        #[arg(long)]
        folder: PathBuf,
    },
    /// Connect to a listener on loopback, which accepts and closes.
    Connect { count: u64 },
    /// All kinds together at given rates, for a time; prints what was really reached.
    Mix {
        #[arg(long)]
        seconds: u64,
        /// File creations a second.
        #[arg(long)]
        files: u64,
        /// Program starts a second.
        #[arg(long)]
        execs: u64,
        /// Connections a second.
        #[arg(long)]
        connects: u64,
        /// Folder for the files.
        #[arg(long)]
        folder: PathBuf,
    },
    /// What `exec` starts: nothing.
    #[command(hide = true)]
    Nothing {
        /// Tells one start from another.
        mark: String,
    },
}

fn main() -> Result<()> {
    let begun = Instant::now();
    let done = match Cli::parse().storm {
        Storm::Exec { count } => json!({"execs": storm::exec(count)?}),
        Storm::Open { count } => json!({"opens": storm::open(count)?}),
        Storm::Create { count, folder } => json!({"creates": storm::create(count, &folder)?}),
        Storm::Connect { count } => json!({"connects": storm::connect(count)?}),
        Storm::Mix { seconds, files, execs, connects, folder } => {
            pace::mix(seconds, files, execs, connects, &folder)?
        }
        Storm::Nothing { .. } => return Ok(()),
    };
    println!("{}", json!({"done": done, "seconds": begun.elapsed().as_secs_f64()}));
    Ok(())
}
