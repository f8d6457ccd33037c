//! Stand-ins that behave like attacks and harm nothing: a process that burns CPU and speaks the stratum protocol, a shell whose
//! stdio is a socket, a program run from memory, a web server's child that reads /etc/shadow.
//!
//! `standin play ATTACK` makes the arena (a network namespace and a cgroup of its own), puts the attack into the cgroup and its
//! peer outside it, and prints one JSON line for everything that the peer sees, so that an onlooker can tell from outside
//! whether the attack still lives. Commands come on standard input, one a line: `poke` asks the attack for a sign of life; the end of
//! the input ends the play and removes everything.

mod arena;
mod attack;
mod play;
mod traffic;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "standin", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

/// Which attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Burns CPU and submits shares to a pool.
    Miner,
    /// `/bin/sh -i` with a socket as its stdio.
    ReverseShell,
    /// Runs a program from a memfd; it beacons.
    Fileless,
    /// A web server whose child reads /etc/shadow and answers with what it found (its length only).
    WebShadow,
}

#[derive(Subcommand)]
enum Role {
    /// Make the arena, play an attack in it, report what its peer sees.
    Play {
        /// Which attack.
        attack: Attack,
        /// Name of the cgroup made for the attack, below the cgroup2 mount.
        #[arg(long)]
        cgroup: String,
        /// Folder for copies of programs.
        #[arg(long)]
        scratch: PathBuf,
    },
    /// The attacker's side of an attack (run by `play` inside the cgroup).
    #[command(hide = true)]
    Run {
        attack: Attack,
        /// Address of the peer.
        #[arg(long)]
        peer: std::net::SocketAddr,
        /// What a miner would be told.
        #[arg(long)]
        url: Option<String>,
        /// What a miner would be told.
        #[arg(long)]
        user: Option<String>,
    },
    /// Joins the cgroup and becomes the attack.
    #[command(hide = true)]
    Join,
    /// What the memfd holds: connects and beacons.
    #[command(hide = true)]
    Beacon { peer: std::net::SocketAddr },
    /// The web server's child.
    #[command(hide = true)]
    ReadShadow { peer: std::net::SocketAddr },
    /// Echo on TCP port 7000 and answer names on UDP port 53.
    Serve,
    /// Ask such a server all the time, and tell how long ago it last went well.
    Probe {
        /// The server.
        #[arg(long)]
        peer: std::net::Ipv4Addr,
    },
}

fn main() -> Result<()> {
    match Cli::parse().role {
        Role::Play { attack, cgroup, scratch } => play::play(attack, &cgroup, &scratch),
        Role::Run { attack, peer, .. } => attack::run(attack, peer),
        Role::Join => play::join(),
        Role::Beacon { peer } => attack::beacon(peer),
        Role::ReadShadow { peer } => attack::read_shadow(peer),
        Role::Serve => traffic::serve(),
        Role::Probe { peer } => traffic::probe(peer),
    }
}
