//! Manual pages, completions and the table in docs/options.md: `scripts/dist` generates all of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use hvt_tender::{cli, elftool};

/// Runs the generator, which is built together with this test.
fn generate(words: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline", "--package", "hvt-tender", "--example", "dist", "--"]).args(words);
    let output = cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Returns every long option of a command.
fn options(command: &clap::Command) -> Vec<String> {
    command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect()
}

/// Returns bash's completions of the last of `words`.
fn completed(script: &Path, words: &[&str]) -> Vec<String> {
    let line = format!(
        "source '{}'; COMP_WORDS=({}); COMP_CWORD={}; _hvt__tender hvt-tender \"${{COMP_WORDS[COMP_CWORD]}}\" \
         \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1
    );
    let output = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn manual_pages_and_completions_have_every_option() {
    let folder = tempfile::tempdir().unwrap();
    generate(&[folder.path().to_str().unwrap()]);
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect(name);
    let tender = options(&cli::command());
    assert!(tender.len() > 20, "{tender:?}");
    let manual = read("man/hvt-tender.1").replace("\\-", "-");
    for option in &tender {
        assert!(manual.contains(&format!("--{option}")), "{option} {manual}");
        for shell in ["hvt-tender.bash", "_hvt-tender"] {
            assert!(read(&format!("completions/{shell}")).contains(&format!("--{option}")), "{shell} {option}");
        }
        assert!(read("completions/hvt-tender.fish").contains(&format!("-l {option} ")), "{option}");
    }
    for words in [".SH NAME", ".SH SYNOPSIS", "unix:PATH", "The exit status is the unikernel"] {
        assert!(manual.contains(words), "{words} {manual}");
    }
    let manual = read("man/hvt-elftool.1").replace("\\-", "-");
    for subcommand in elftool::command().get_subcommands() {
        assert!(manual.contains(subcommand.get_name()), "{} {manual}", subcommand.get_name());
        for shell in ["hvt-elftool.bash", "_hvt-elftool", "hvt-elftool.fish"] {
            let completions = read(&format!("completions/{shell}"));
            assert!(completions.contains(subcommand.get_name()), "{shell} {}", subcommand.get_name());
        }
    }
    let script = folder.path().join("completions/hvt-tender.bash");
    assert_eq!(completed(&script, &["hvt-tender", "--block-r"]), ["--block-readonly"]);
    assert_eq!(completed(&script, &["hvt-tender", "--backend", ""]), ["auto", "kvm", "process", "redox"]);
}

#[test]
fn the_table_of_options_matches_the_parser() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/options.md")).unwrap();
    assert!(page.contains(&cli::markdown()), "docs/options.md is out of date: run scripts/dist --options");
    // An old table is replaced, and the text around it stays.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("options.md");
    fs::write(&copy, page.replace("`--mem=MB`", "`--memory`")).unwrap();
    assert_ne!(fs::read_to_string(&copy).unwrap(), page);
    generate(&["--options", copy.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&copy).unwrap(), page);
}
