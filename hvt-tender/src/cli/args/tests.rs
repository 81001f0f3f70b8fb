use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{BackendChoice, BlockSource, DeviceOptions, Forward, HostLoopback, NetRing, NetSource};

fn parse_words(words: &[&str]) -> Result<Command, UsageError> {
    parse(words.iter().map(OsString::from))
}

/// Parses a command line that must be valid.
fn config(line: &str) -> Config {
    match parse_words(&line.split(' ').collect::<Vec<_>>()) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn devices(line: &str) -> DeviceOptions {
    config(&format!("{line} app.hvt")).devices
}

fn named<T>(name: &str, value: T) -> Vec<Named<T>> {
    vec![Named { name: Some(name.into()), value }]
}

fn unnamed<T>(value: T) -> Vec<Named<T>> {
    vec![Named { name: None, value }]
}

#[test]
fn defaults() {
    assert_eq!(config("app.hvt"), Config::new("app.hvt"));
}

#[test]
fn a_debugger_is_waited_for() {
    let waits = |line: &str| {
        let config = config(&format!("{line} app.hvt"));
        (config.gdb, config.gdb_port)
    };
    assert_eq!(waits("--gdb"), (true, 1234));
    assert_eq!(waits("--gdb --gdb-port=0"), (true, 0));
    assert_eq!(waits("--gdb-port 65535"), (false, 65535), "the port alone enables nothing");
    let socket = |line: &str| config(line).gdb_socket;
    assert_eq!(socket("--gdb app.hvt"), None);
    assert_eq!(socket("--gdb=/run/gdb app.hvt"), Some(PathBuf::from("/run/gdb")));
    assert!(config("--gdb=/run/gdb app.hvt").gdb);
    for bad in ["--gdb-port=65536", "--gdb-port=-1", "--gdb-port=", "--gdb=", "--gdb:a"] {
        assert!(parse_words(&[bad, "app.hvt"]).is_err(), "{bad}");
    }
}

#[test]
fn where_core_files_go() {
    for line in ["--dumpcore=/tmp app.hvt", "--dumpcore /tmp app.hvt"] {
        assert_eq!(config(line).core_directory, Some(PathBuf::from("/tmp")), "{line}");
    }
    assert!(parse_words(&["--dumpcore=", "app.hvt"]).is_err());
    assert!(parse_words(&["--dumpcore:storage=/tmp", "app.hvt"]).is_err());
}

#[test]
fn every_form_of_an_option_means_the_same() {
    let tap = || NetSource::Interface("tap0".into());
    for line in ["--net tap0", "--net=tap0"] {
        assert_eq!(devices(line).nets, unnamed(tap()), "{line}");
    }
    for line in ["--net service=tap0", "--net=service=tap0", "--net:service=tap0", "--net:service tap0"] {
        assert_eq!(devices(line).nets, named("service", tap()), "{line}");
    }
    for line in ["--net service=@7", "--net:service=@7"] {
        assert_eq!(devices(line).nets, named("service", NetSource::Descriptor(7)), "{line}");
    }
    for line in ["--net-pcap service=frames", "--net-pcap=service=frames", "--net-pcap:service=frames"] {
        assert_eq!(devices(line).recordings, named("service", PathBuf::from("frames")), "{line}");
    }
    let mac = [2, 0, 0, 0, 0, 1];
    for line in ["--net-mac 02:00:00:00:00:01", "--net-mac=02:00:00:00:00:01"] {
        assert_eq!(devices(line).macs, unnamed(mac), "{line}");
    }
    for line in ["--net-mac service=02:00:00:00:00:01", "--net-mac:service=02:00:00:00:00:01"] {
        assert_eq!(devices(line).macs, named("service", mac), "{line}");
    }
    let path = || BlockSource::File("disk.img".into());
    for line in ["--block disk.img", "--block=disk.img"] {
        assert_eq!(devices(line).blocks, unnamed(path()), "{line}");
    }
    for line in ["--block storage=disk.img", "--block=storage=disk.img", "--block:storage=disk.img"] {
        assert_eq!(devices(line).blocks, named("storage", path()), "{line}");
    }
    for line in ["--disk-cow storage=disk.img", "--disk-cow=storage=disk.img", "--disk-cow:storage=disk.img"] {
        assert_eq!(devices(line).blocks, named("storage", BlockSource::Copy("disk.img".into())), "{line}");
    }
    assert_eq!(
        devices("--net none --net a=pcap:b=c").nets,
        [
            Named { name: None, value: NetSource::None },
            Named { name: Some("a".into()), value: NetSource::Pcap("b=c".into()) },
        ]
    );
    for line in ["--net service=user", "--net=service=user", "--net:service=user"] {
        assert_eq!(devices(line).nets, named("service", NetSource::User), "{line}");
    }
    // A device may be called `user`.
    assert_eq!(devices("--net user=tap0").nets, named("user", tap()));
    assert_eq!(devices("--net:user=user").nets, named("user", NetSource::User));
    for line in ["--forward tcp:8080:80", "--forward=tcp:8080:80"] {
        assert_eq!(devices(line).forwards, unnamed(Forward::tcp(8080, 80)), "{line}");
    }
    for line in ["--forward a=tcp:8080:80", "--forward:a=tcp:8080:80", "--forward:a tcp:127.0.0.1:8080:80"] {
        assert_eq!(devices(line).forwards, named("a", Forward::tcp(8080, 80)), "{line}");
    }
    let port = || HostLoopback::Ports([5432].into());
    for line in ["--host-loopback 5432", "--host-loopback=5432"] {
        assert_eq!(devices(line).loopbacks, unnamed(port()), "{line}");
    }
    for line in ["--host-loopback a=5432", "--host-loopback=a=5432", "--host-loopback:a=5432"] {
        assert_eq!(devices(line).loopbacks, named("a", port()), "{line}");
    }
    assert_eq!(devices("--host-loopback=all").loopbacks, unnamed(HostLoopback::All));
    for line in ["--net-allow a=169.254.169.254", "--net-allow:a=169.254.169.254"] {
        assert_eq!(devices(line).opened, named("a", [169, 254, 169, 254].into()), "{line}");
    }
    for line in ["--timeout 90 app.hvt", "--timeout=90s app.hvt", "--timeout=90000ms app.hvt"] {
        assert_eq!(config(line), Config { timeout: Some(Duration::from_secs(90)), ..Config::new("app.hvt") }, "{line}");
    }
    for (line, net_ring) in
        [("--net-ring=off app.hvt", NetRing::Off), ("--net-ring on app.hvt", NetRing::On), ("app.hvt", NetRing::Auto)]
    {
        assert_eq!(config(line), Config { net_ring, ..Config::new("app.hvt") });
    }
    assert_eq!(config("--virtual-time app.hvt"), Config { virtual_time: true, ..Config::new("app.hvt") });
    for line in ["--block-sector-size 4096", "--block-sector-size=4096"] {
        assert_eq!(devices(line).block_sizes, unnamed(4096), "{line}");
    }
    for line in ["--block-sector-size storage=4096", "--block-sector-size:storage=4096"] {
        assert_eq!(devices(line).block_sizes, named("storage", 4096), "{line}");
    }
    assert_eq!(devices("--block-readonly").read_only, unnamed(()));
    for line in ["--block-readonly=storage", "--block-readonly:storage"] {
        assert_eq!(devices(line).read_only, named("storage", ()), "{line}");
    }
    assert_eq!(devices("--block-direct").direct, unnamed(()));
    for line in ["--block-direct=storage", "--block-direct:storage"] {
        assert_eq!(devices(line).direct, named("storage", ()), "{line}");
    }
    for line in ["--mem 32 app.hvt", "--mem=32 app.hvt", "--mem=1 --mem=32 -- app.hvt"] {
        assert_eq!(config(line), Config { memory: 32 << 20, ..Config::new("app.hvt") }, "{line}");
    }
    for (name, backend) in BackendChoice::ALL {
        assert_eq!(config(&format!("--backend {name} app.hvt")).backend, backend);
        assert_eq!(config(&format!("--backend={name} app.hvt")).backend, backend);
    }
    for line in ["-v -v app.hvt", "-vv app.hvt", "--verbose -v app.hvt"] {
        assert_eq!(config(line).verbosity, 2, "{line}");
    }
}

#[test]
fn a_path_that_looks_like_a_name_is_written_with_its_folder() {
    assert_eq!(devices("--block ./a=b").blocks, unnamed(BlockSource::File("./a=b".into())));
    assert_eq!(devices("--block:storage=a=b").blocks, named("storage", BlockSource::File("a=b".into())));
}

#[test]
fn several_devices_stay_in_order() {
    let nets = devices("--net:b=tap1 --net a=tap0 --block c=x --net:a=@9").nets;
    let names: Vec<_> = nets.iter().map(|net| net.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["b", "a", "a"]);
}

#[test]
fn what_follows_the_kernel_is_the_guests() {
    for (words, expected) in [
        (&["app", "--mem=1", "-v", "--help"][..], &["--mem=1", "-v", "--help"][..]),
        (&["--", "app", "--", "x"], &["--", "x"]),
        (&["app", "--", "x"], &["--", "x"]),
        (&["-v", "--", "app", "", " ", "--solo5:quiet"], &["", " ", "--solo5:quiet"]),
        (&["--", "app"], &[]),
    ] {
        let Ok(Command::Run(config)) = parse_words(words) else { panic!("{words:?}") };
        assert_eq!((config.kernel, config.arguments), ("app".into(), expected.iter().map(OsString::from).collect()));
    }
    let Ok(Command::Run(config)) = parse_words(&["--", "--odd"]) else { panic!() };
    assert_eq!(config.kernel, PathBuf::from("--odd"));
}

#[test]
fn bytes_that_are_no_utf_8_stay_what_they_are() {
    let odd = OsStr::from_bytes(b"\xff\xfe");
    let option = OsStr::from_bytes(b"--block:storage=\xff\xfe");
    let Ok(Command::Run(config)) = parse([option, odd, odd].map(OsStr::to_owned)) else { panic!() };
    assert_eq!(config.devices.blocks, named("storage", BlockSource::File(odd.into())));
    assert_eq!((config.kernel.as_os_str(), &config.arguments[..]), (odd, &[odd.to_owned()][..]));
    assert!(parse([OsStr::from_bytes(b"--net:\xff=tap0").to_owned(), "app".into()]).is_err());
}

#[test]
fn help_and_version_need_no_kernel() {
    for (line, command) in [
        ("--help", Command::Help),
        ("-h", Command::Help),
        ("--version", Command::Version),
        ("-V", Command::Version),
        ("--mem=1 --help", Command::Help),
    ] {
        assert_eq!(parse_words(&line.split(' ').collect::<Vec<_>>()), Ok(command), "{line}");
    }
}

#[test]
fn an_empty_word_is_no_unikernel() {
    for words in [&[""][..], &["--", ""], &["--mem=32", "", "x"]] {
        let error = parse_words(words).expect_err("a file").to_string();
        assert_eq!(error, "no unikernel given: KERNEL is ''");
    }
}

#[test]
fn says_what_is_wrong() {
    for (line, words) in [
        ("", "no unikernel"),
        ("--mem=32", "no unikernel"),
        ("--", "no unikernel"),
        ("--frob app", "unknown option '--frob'"),
        ("-x app", "unknown option '-x'"),
        ("-vx app", "unknown option '-x'"),
        ("--mem", "--mem <MB>: value missing"),
        ("--net:service", "--net <[NAME=]SOURCE>: value missing"),
        ("--mem= app", "--mem: invalid value '': expected a number of MB"),
        ("--mem=lots app", "--mem: invalid value 'lots': expected a number of MB"),
        ("--mem=-1 app", "--mem: invalid value '-1'"),
        ("--mem:storage=1 app", "unknown option '--mem:storage'"),
        ("--help:me app", "unknown option '--help:me'"),
        ("--verbose=2 app", "--verbose: unexpected value '2'"),
        ("--backend=xen app", "--backend: invalid value 'xen': expected auto, kvm, process or redox"),
        ("--timeout=soon app", "--timeout: invalid value 'soon': expected a time such as 30, 500ms"),
        ("--timeout:a=1 app", "unknown option '--timeout:a'"),
        ("--virtual-time=1 app", "--virtual-time: unexpected value '1'"),
        ("--disk-cow:storage= app", "--disk-cow:storage: invalid value '': expected the path"),
        ("--net=pcap: app", "--net: invalid value 'pcap:': expected pcap: and the path of a file"),
        ("--net-pcap= app", "--net-pcap: invalid value '': expected the path of a file"),
        ("--net= app", "--net: invalid value '': expected a network interface"),
        ("--net:=tap0 app", "--net:: invalid device name ''"),
        ("--net:a_b=tap0 app", "--net:a_b: invalid device name 'a_b': expected 1 to 67 letters and digits"),
        ("--net:a:b=tap0 app", "--net:a:b: invalid device name 'a:b'"),
        ("--net:service= app", "--net:service: invalid value '': expected a network interface"),
        ("--net:service=@x app", "--net:service: invalid value '@x': expected @ and the number"),
        ("--forward=8080:80 app", "--forward: invalid value '8080:80': expected tcp:HOSTPORT:GUESTPORT"),
        ("--host-loopback=0 app", "--host-loopback: invalid value '0': expected all, or TCP and UDP ports such as"),
        ("--net-allow=a app", "--net-allow: invalid value 'a': expected an IPv4 address"),
        ("--net-mac:service=1 app", "--net-mac:service: invalid value '1': expected a hardware address"),
        ("--block:storage= app", "--block:storage: invalid value '': expected the path"),
        ("--block-sector-size=x app", "--block-sector-size: invalid value 'x': expected a number of bytes"),
        ("--block-sector-size storage=x app", "--block-sector-size:storage: invalid value 'x': expected a number"),
        ("--block-readonly=a/b app", "--block-readonly: invalid value 'a/b': expected 1 to 67 letters and digits"),
        ("--block-readonly:storage=x app", "--block-readonly:storage: unexpected value 'x'"),
        ("--block-direct:storage=x app", "--block-direct:storage: unexpected value 'x'"),
    ] {
        let words_of_line: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let error = parse_words(&words_of_line).expect_err(line).to_string();
        assert!(error.contains(words), "{line}: {error}");
        assert!(!error.contains('\n'), "{line}: {error}");
    }
}

proptest! {
    /// No command line makes the tender panic, and the words after the unikernel reach the guest
    /// unchanged.
    #[test]
    fn any_bytes(args: Vec<Vec<u8>>) {
        let args: Vec<_> = args.iter().map(|arg| OsStr::from_bytes(arg).to_owned()).collect();
        if let Ok(Command::Run(config)) = parse(args.clone()) {
            prop_assert!(args.ends_with(&config.arguments));
        }
    }

    /// No command line made of options makes the tender panic.
    #[test]
    fn any_options(args in prop::collection::vec("(--(net|net-mac|net-allow|host-loopback|gdb|forward|block|block-sector-size|block-readonly|block-direct|disk-cow|timeout|virtual-time|mem|x)(:[a-z_]{0,2})?)?=?[a-z@=:0-9]{0,4}", 0..6)) {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        let parsed = parse(args.clone());
        // Parsing with every row gives the same result as parsing with the rows in use.
        let mut line = Words::rewrite(args.iter().cloned());
        let unused: Vec<_> = table::rows().filter(|row| !line.rows.iter().any(|used| used.long == row.long)).collect();
        line.rows.extend(unused);
        let with_all = line.parse(Systems::current());
        prop_assert_eq!(parsed.is_ok(), with_all.is_ok());
        if let (Ok(parsed), Ok(with_all)) = (&parsed, &with_all) {
            prop_assert_eq!(parsed, with_all);
        }
        if let Ok(Command::Run(config)) = parsed {
            prop_assert!(args.ends_with(&config.arguments));
        }
    }
}

#[test]
fn a_trace_goes_to_a_file() {
    for line in ["--trace calls.json app.hvt", "--trace=calls.json app.hvt"] {
        assert_eq!(config(line).trace, Some(PathBuf::from("calls.json")));
    }
}

/// Clap gets only the options in use. If one of them is unknown, clap gets every option to compare.
#[test]
fn a_similar_option_is_suggested() {
    for (line, words) in [
        ("--forwrd=tcp:1:2 app", "unknown option '--forwrd' (did you mean '--forward'?)"),
        ("--mem=1 --verbos app", "unknown option '--verbos' (did you mean '--verbose'?)"),
        ("--block-read-only app", "unknown option '--block-read-only' (did you mean '--block-readonly'?)"),
    ] {
        let error = parse_words(&line.split(' ').collect::<Vec<_>>()).expect_err(line).to_string();
        assert_eq!(error, words, "{line}");
    }
}

#[test]
fn the_first_problem_is_reported() {
    for (line, words) in [
        ("--frob --net:a_b=x", "--frob"),
        ("--net:a_b=x --frob", "a_b"),
        ("--virtual-time=1 --net:a_b=x", "--virtual-time"),
    ] {
        let error = parse_words(&line.split(' ').collect::<Vec<_>>()).expect_err(line).to_string();
        assert!(error.contains(words), "{line}: {error}");
    }
    for line in ["--help --frob", "-h --net:a_b=x", "--frobnicate"] {
        let help = parse_words(&line.split(' ').collect::<Vec<_>>()) == Ok(Command::Help);
        assert_eq!(help, !line.starts_with("--frob"), "{line}");
    }
}

#[test]
fn a_value_may_look_like_an_option() {
    assert_eq!(config("--trace --mem=1 app").trace, Some(PathBuf::from("--mem=1")));
    assert_eq!(config("--trace -- app").trace, Some(PathBuf::from("--")));
    assert_eq!(config("--trace=--net:a=b app").trace, Some(PathBuf::from("--net:a=b")));
    assert_eq!(devices("--block:a --block:b=c").blocks, named("a", BlockSource::File("--block:b=c".into())));
}

#[test]
fn a_switch_may_be_repeated() {
    assert!(config("--virtual-time --virtual-time app").virtual_time);
    assert_eq!(config(&format!("-{} app", "v".repeat(300))).verbosity, 255);
}

/// The table restricts both options and values to operating systems.
#[test]
fn redox_refuses_options_and_values_of_linux() {
    let on_redox = |line: &str| parse_on(Systems::REDOX, line.split(' ').map(OsString::from));
    let needs_value = |row: &Row| row.placeholder().is_some() && !matches!(row.argument, Argument::DeviceSwitch(_));
    let mut refused = 0;
    for row in table::rows().filter(|row| !row.systems.contains(Systems::REDOX)) {
        let value = if needs_value(row) { "=x" } else { "" };
        let error = on_redox(&format!("--{}{value} app", row.long)).expect_err(row.long).to_string();
        assert_eq!(error, format!("--{}: not available on Redox", row.long));
        refused += 1;
    }
    assert!(refused >= 10, "{refused}");
    for (line, words) in [
        ("--net=a=user app", "--net: 'user' is not available on Redox"),
        ("--net=@3 app", "--net: '@3' is not available on Redox"),
        ("--backend=kvm app", "--backend: 'kvm' is not available on Redox"),
        ("--forwrd=x app", "unknown option '--forwrd'"),
    ] {
        assert_eq!(on_redox(line).expect_err(line).to_string(), words, "{line}");
    }
    let Ok(Command::Run(config)) = on_redox("--mem=32 --net=/scheme/net --block-readonly -v --backend redox app")
    else {
        panic!()
    };
    assert_eq!(config.devices.nets, unnamed(NetSource::Interface("/scheme/net".into())));
}
