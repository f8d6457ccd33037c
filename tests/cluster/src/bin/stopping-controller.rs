//! A controller for tests that stops at every journalled transition until it is told to go on, so that a test can kill it, or something
//! else, exactly there (I7). It takes the words that the chart gives to `hemostat controller`.
//!
//! Who connects to port 7999 is told of each group of transitions that have just become durable, one line of JSON each, and answers with a
//! line. While nobody is connected it goes on by itself.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use controller::{
    ControllerConfig,
    crash::{CrashPoints, Moment},
    reconcile::{self, ClusterConfig, lease::LeaseConfig},
};
use tokio::signal::unix::{SignalKind, signal};

/// Where the one who decides connects.
const PORT: u16 = 7999;

/// Stops at each group until it is told to go on.
#[derive(Default)]
struct Stops(Mutex<Option<BufReader<TcpStream>>>);

impl CrashPoints for Stops {
    fn reached(&self, moment: Moment, transitions: &[String]) {
        if moment != Moment::AfterWrite || transitions.is_empty() {
            return;
        }
        let mut listener = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = listener.as_mut()
            && tell(stream, transitions).is_err()
        {
            *listener = None;
        }
    }
}

fn tell(stream: &mut BufReader<TcpStream>, transitions: &[String]) -> Result<()> {
    writeln!(stream.get_mut(), "{}", serde_json::json!(transitions)).context("tell of transitions")?;
    let mut answer = String::new();
    anyhow::ensure!(stream.read_line(&mut answer).context("hear an answer")? > 0, "nobody answers");
    Ok(())
}

/// As `hemostat controller` reads them.
fn channels(file: Option<&str>) -> Result<Vec<controller::act::Channel>> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    serde_saphyr::from_str(&text).with_context(|| format!("understand {path}"))
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let word = |name: &str| {
        let begin = format!("--{name}=");
        words.iter().find_map(|word| word.strip_prefix(&begin).map(str::to_owned))
    };
    let need = |name: &str| word(name).with_context(|| format!("--{name} is missing"));
    let state = PathBuf::from(need("state")?);
    let namespace = need("namespace")?;
    let identity = std::env::var("HEMOSTAT_IDENTITY").context("HEMOSTAT_IDENTITY is missing")?;
    std::fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
    let stops = Arc::new(Stops::default());
    let told = Arc::clone(&stops);
    let doors = TcpListener::bind(("0.0.0.0", PORT)).context("listen for who decides")?;
    thread::spawn(move || {
        for stream in doors.incoming().flatten() {
            let _unheard = stream.set_read_timeout(Some(Duration::from_secs(60)));
            *told.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(BufReader::new(stream));
        }
    });
    let config = kube::Config::infer().await.context("find out how the API server is reached")?;
    let client = kube::Client::try_from(config).context("make a client of the API server")?;
    let cluster = ClusterConfig {
        agents: need("agents")?,
        lease: LeaseConfig::new(namespace.clone(), identity.clone()),
        namespace,
        identity,
        links: need("listen")?.parse().context("read --listen")?,
        probes: need("probes")?.parse().context("read --probes")?,
        certificate_life: Duration::from_secs(3600),
        service: None,
        sources: Vec::new(),
        channels: channels(word("channels").as_deref())?,
        scanner: None,
    };
    let controller = ControllerConfig { crash: stops, ..ControllerConfig::in_folders(&state, &state) };
    let stop = tokio_util::sync::CancellationToken::new();
    let told = stop.clone();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::spawn(async move {
        terminate.recv().await;
        told.cancel();
    });
    reconcile::run(client, cluster, controller, stop).await.context("run the controller")
}
