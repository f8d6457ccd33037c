//! Writes the narrative of the tests' incident into a folder, to be looked at: `cargo run -p hemostat-narrate --example pages -- FOLDER`.

#[path = "../tests/sample/mod.rs"]
mod sample;

fn main() -> std::io::Result<()> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".into()));
    std::fs::create_dir_all(&folder)?;
    let told = sample::told(&str::to_owned);
    std::fs::write(folder.join("incident.html"), hemostat_narrate::html::render(&told))?;
    std::fs::write(folder.join("incident.md"), hemostat_narrate::markdown::render(&told))
}
