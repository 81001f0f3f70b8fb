//! Runs every example with the command in its first lines.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_example_runs() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guests =
        test_suite::guests::directory(env!("CARGO_BIN_EXE_hvt-elftool")).expect("the test unikernels are there");
    let mut ran = Vec::new();
    for file in fs::read_dir(package.join("examples")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let typed = text.lines().find_map(|line| line.strip_prefix("//! cargo run ")).expect(&name);
        assert!(typed.contains(&format!(" --example {name} ")), "{typed}");
        // The example has been built by now, and the unikernels are where these tests have them.
        let words = typed.replace("target/release", guests.to_str().unwrap());
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["run", "--quiet", "--offline"])
            .args(words.split_whitespace())
            .current_dir(package.parent().unwrap());
        let output = cargo.output().unwrap();
        let [said, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(output.status.success(), "{typed}: {}\n{said}{errors}", output.status);
        ran.push(name);
    }
    assert!(ran.len() >= 3, "{ran:?}");
}
