//! User-mode networking: clients reach the guest through a port of the host's loopback interface,
//! and the guest reaches servers there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use hvt_tender::Script;

use super::net::{in_own_network, run};
use super::{assert_fails, guest, small_pipe, tender, text};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_guest_is_reached_through_a_port() {
    let mut command = tender();
    // Without -v, only the log contains the port. The timeout ends a tender that does not log the
    // port.
    command.args(["--timeout=60", "--mem=32", "--backend=process", "--net:service=user", "--forward=tcp:0:80"]);
    command.arg(guest("http")).arg("requests=2").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tender = command.spawn().unwrap();
    let mut log = BufReader::new(tender.stderr.take().unwrap());
    let mut line = String::new();
    let address: SocketAddr = loop {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the tender does not log the address of the guest");
        if let Some((_, address)) = line.split_once("guest port 80 is reachable at ") {
            break address.trim().parse().unwrap();
        }
    };
    // Connect immediately: a connection made before the guest is ready waits for the guest.
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("Hello from a unikernel\n"), "{answer}");
    }
    let output = tender.wait_with_output().unwrap();
    let console = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{console}");
    assert!(console.contains("address 10.0.2.15/24\n"), "{console}");
}

#[test]
fn a_guest_reaches_the_hosts_loopback() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut command = tender();
    command.args(["--mem=32", "--backend=process", "--net=user", &format!("--host-loopback={port}")]);
    command.arg(guest("http")).arg(format!("get=10.0.2.2:{port}")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let tender = command.spawn().unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut request).unwrap(), 0, "{request}");
    }
    assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\nHello from the host\n").unwrap();
    drop(stream);
    let output = tender.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("Hello from the host\n"));
}

#[test]
fn the_hosts_loopback_is_closed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = format!("--host-loopback={}", if port == 1 { 2 } else { 1 });
    for options in [&[][..], &[other.as_str()]] {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process", "--net=user"]).args(options).arg(guest("http"));
        let output = command.arg(format!("get=10.0.2.2:{port}")).output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{}", text(&output.stdout));
        assert!(listener.accept().is_err());
    }
}

#[test]
fn invalid_options_are_errors() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    for (options, words) in [
        (vec!["--net=user", &format!("--forward=tcp:{}:80", address.port())], format!("cannot listen at {address}")),
        (
            vec!["--net=none", "--forward=tcp:0:80"],
            "--forward: net device 'service' has no user-mode networking".into(),
        ),
        (vec!["--net=user", "--forward=other=tcp:0:80"], "--forward: net device 'other' not declared".into()),
        (
            vec!["--net=none", "--host-loopback=all"],
            "--host-loopback: net device 'service' has no user-mode networking: enable it with --net service=user"
                .into(),
        ),
        (vec!["--net=none", "--net-allow=169.254.169.254"], "--net-allow: net device 'service' has no".into()),
        (vec!["--net=user", "--net-allow=192.0.2.1"], "192.0.2.1 cannot be allowed: only link-local and".into()),
        (vec!["--net=user", "--virtual-time"], "do not run in virtual time".into()),
    ] {
        let mut command = tender();
        let output =
            command.args(["--mem=32", "--backend=process"]).args(&options).arg(guest("http")).output().unwrap();
        assert_fails(&output, 1, &words);
    }
}

/// Address that the test adds to the host, and the port that the guest sends to.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);

/// Ethernet frame with an ARP request for the gateway. The gateway learns the guest's MAC address
/// from it.
fn arp() -> Vec<u8> {
    const GUEST: [u8; 10] = [2, 0, 0, 0, 0, 0x2a, 10, 0, 2, 15];
    let request = [0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6], &GUEST[..6], &[8, 6], &request, &GUEST, &[0; 6], &[10, 0, 2, 2]].concat()
}

/// Ethernet frame of the guest with an empty UDP datagram from 10.0.2.15, port 9, to this address,
/// without a UDP checksum.
fn knock(to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 15];
    ip.extend(to.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let [high, low] = port.to_be_bytes();
    let udp = [0, 9, high, low, 0, 8, 0, 0];
    [&[0xff; 6], &[2, 0, 0, 0, 0, 0x2a], &[8, 0][..], &ip, &udp].concat()
}

/// Returns the number of bytes queued in the tender's socket that sends to `port` of [`HOST`].
fn waiting(port: u16) -> u64 {
    let peer = format!("{:08X}:{port:04X}", u32::from_le_bytes(HOST.octets()));
    let sockets = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let line = sockets.lines().find(|line| line.split_whitespace().nth(2) == Some(&peer)).expect(&sockets);
    let queues = line.split_whitespace().nth(4).unwrap();
    u64::from_str_radix(queues.split_once(':').unwrap().1, 16).unwrap()
}

/// The network thread allocates hundreds of frames, and the guest's thread frees them.
#[test]
fn datagrams_that_queue_up_while_the_guest_is_busy_reach_it() {
    /// Number of datagrams in a burst. The socket and the gateway's stack can queue them without
    /// loss.
    const BURST: usize = 20;
    /// Number of bursts. All datagrams together fit in the guest's queue.
    const BURSTS: usize = 35;
    in_own_network(|| {
        run("ip link set lo up");
        run(&format!("ip addr add {HOST}/32 dev lo"));
        let socket = UdpSocket::bind((HOST, 0)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let script = Script::new().net_write("service", arp()).net_write("service", knock(HOST, port));
        // The output is more than the console accepts before the test reads it.
        let script = script.puts(vec![b'.'; 8192]).repeat(1024, |reads| reads.net_read("service", 1514)).halt(0);
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        std::fs::write(&app, script.build()).unwrap();
        let (reader, writer) = small_pipe();
        let mut command = tender();
        command.args(["--mem=32", "--backend=process", "--net=user", "--net-mac=02:00:00:00:00:2a"]);
        command.arg(&app).stdout(writer).stderr(Stdio::piped());
        let tender = command.spawn().unwrap();
        drop(command);
        let (_, guest) = socket.recv_from(&mut [0; 1]).unwrap();
        for _ in 0..BURSTS {
            for _ in 0..BURST {
                socket.send_to(&[7; 1400], guest).unwrap();
            }
            while waiting(port) > 0 {
                thread::yield_now();
            }
        }
        std::fs::File::from(reader).read_to_end(&mut Vec::new()).unwrap();
        let output = tender.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{}", output.status);
    });
}
