//! Writes the manual pages and shell completions for a package of the tender.
//!
//! ```console
//! $ scripts/dist
//! ```
//!
//! Both are generated from the tables with which the programs parse their command lines.
//! `--options` replaces the table in docs/options.md.
//!
//! cargo run --package hvt-tender --example dist -- target/dist

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use hvt_tender::{cli, elftool};

/// Lines of docs/options.md that enclose the table.
const TABLE: [&str; 2] =
    ["<!-- Options: written by scripts/dist --options. -->\n", "<!-- The end of the options. -->\n"];

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    match words.as_slice() {
        [option, page] if option == "--options" => Ok(write_options(Path::new(page))?),
        [directory] => Ok(write_package(Path::new(directory))?),
        _ => Err("usage: dist DIRECTORY, or dist --options docs/options.md".into()),
    }
}

fn write_package(directory: &Path) -> io::Result<()> {
    let (completions, manual) = (directory.join("completions"), directory.join("man"));
    fs::create_dir_all(&completions)?;
    fs::create_dir_all(&manual)?;
    for command in [cli::command(), elftool::command()] {
        let name = command.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(shell, &mut command.clone(), &name, &completions)?;
        }
        write_page(command, &mut File::create(manual.join(format!("{name}.1")))?)?;
    }
    Ok(())
}

/// Writes the manual page of a program.
fn write_page(mut command: Command, to: &mut dyn Write) -> io::Result<()> {
    let usage = command.render_usage().to_string();
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut subcommands = Roff::new();
    for subcommand in command.get_subcommands() {
        let files = subcommand.get_positionals().map(|file| format!(" {}", file.get_id()));
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        let words: String = [subcommand.get_name().to_owned()].into_iter().chain(files).collect();
        subcommands.control("TP", []).text([bold(words)]).text([roman(about)]);
    }
    let has_subcommands = command.has_subcommands();
    let page = Man::new(command).manual("Solo5 unikernels");
    page.render_title(to)?;
    page.render_name_section(to)?;
    section("SYNOPSIS", usage.strip_prefix("Usage: ").unwrap_or(&usage)).to_writer(to)?;
    if has_subcommands {
        section("COMMANDS", "").to_writer(to)?;
        subcommands.to_writer(to)?;
    }
    page.render_options_section(to)?;
    section("NOTES", &notes).to_writer(to)
}

fn section(title: &str, text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff
}

fn write_options(path: &Path) -> io::Result<()> {
    let page = fs::read_to_string(path)?;
    let parts = page.split_once(TABLE[0]).and_then(|(before, rest)| Some((before, rest.split_once(TABLE[1])?.1)));
    let (before, after) =
        parts.ok_or_else(|| io::Error::other("docs/options.md has no table of options to replace"))?;
    fs::write(path, format!("{before}{}\n{}\n{}{after}", TABLE[0], cli::markdown(), TABLE[1]))
}
