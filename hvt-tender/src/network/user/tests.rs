use super::*;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use super::addresses::{DNS, GATEWAY, GUEST};
use crate::network::Host;

const LONG: Duration = Duration::from_secs(30);

/// Network with an open host loopback.
fn open() -> UserNetwork {
    UserNetwork::new().host_loopback(HostLoopback::All)
}

/// Starts the network with a [`Host`] in the guest's place. Returns the host, the forwarded
/// addresses, and the worker, which must live as long as the host.
fn network(builder: UserNetwork) -> (Host, Vec<SocketAddr>, Worker) {
    let UserNet { guest, forwarded, _worker, .. } = builder.start().unwrap();
    (Host::new(guest, GUEST).unwrap(), forwarded, _worker)
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 / 3) as u8).collect()
}

/// Echoes received data until end of file.
fn echo(mut stream: impl Read + Write) {
    let mut buffer = [0; 10_000];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        stream.write_all(&buffer[..len]).unwrap();
    }
}

#[test]
fn a_guest_connects_to_the_hosts_loopback() {
    let (guest, _, _worker) = network(open());
    let (listener, port) = listener();
    thread::scope(|scope| {
        scope.spawn(|| echo(listener.accept().unwrap().0));
        let mut stream = guest.connect(GATEWAY, port).unwrap();
        // More data than all buffers on the path hold.
        let sent = bytes(2_000_000);
        let mut received = Vec::new();
        for part in sent.chunks(50_000) {
            stream.write_all(part).unwrap();
            let mut back = vec![0; part.len()];
            stream.read_exact(&mut back).unwrap();
            received.extend(back);
        }
        stream.shutdown_write().unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        assert!(sent == received);
    });
}

/// Each direction closes independently, and data sent before arrives.
#[test]
fn half_a_connection() {
    let (guest, _, _worker) = network(open());
    let (listener, port) = listener();
    let mut ours = guest.connect(GATEWAY, port).unwrap();
    let (mut theirs, from) = listener.accept().unwrap();
    assert!(from.ip().is_loopback());
    // Sent before the peer reads.
    let sent = bytes(40_000);
    ours.write_all(&sent).unwrap();
    ours.shutdown_write().unwrap();
    let mut received = Vec::new();
    theirs.read_to_end(&mut received).unwrap();
    assert!(sent == received);
    theirs.write_all(&sent).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    received.clear();
    ours.read_to_end(&mut received).unwrap();
    assert!(sent == received);
}

#[test]
fn refused_connections_are_reset() {
    let (guest, _, _worker) = network(open());
    let (closed, port) = listener();
    drop(closed);
    for (to, port) in [(GATEWAY, port), (DNS, 80)] {
        let refused = guest.connect(to, port).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{to}:{port}");
    }
}

#[test]
fn only_the_gateway_and_the_name_server_answer() {
    let (guest, _, _worker) = network(open());
    for address in [GATEWAY, DNS] {
        guest.ping(address).unwrap();
    }
    let nobody = guest.ping_timeout([10, 0, 2, 9], Duration::from_millis(100)).unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn forwarded_ports_lead_to_the_guest() {
    let builder = UserNetwork::new().forward(Forward::tcp(0, 80)).forward(Forward::tcp(0, 81));
    let (guest, forwarded, _worker) = network(builder);
    assert!(forwarded.iter().all(|address| address.ip() == Ipv4Addr::LOCALHOST));
    let listener = guest.listen(80).unwrap();
    for len in [1, 100_000] {
        thread::scope(|scope| {
            scope.spawn(|| {
                let stream = listener.accept().unwrap();
                assert_eq!(*stream.peer().ip(), GATEWAY);
                echo(stream);
            });
            let mut stream = TcpStream::connect(forwarded[0]).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            let sent = bytes(len);
            thread::scope(|scope| {
                let mut writer = stream.try_clone().unwrap();
                let sent = &sent;
                scope.spawn(move || {
                    writer.write_all(sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                assert!(received == *sent, "{} of {len}", received.len());
            });
        });
    }
    // The guest does not listen on port 81.
    let mut stream = TcpStream::connect(forwarded[1]).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let taken = UserNetwork::new().forward(Forward { host: forwarded[0], guest: 80 }).start().unwrap_err();
    assert!(taken.to_string().contains(&format!("cannot listen at {}", forwarded[0])), "{taken}");
}

#[test]
fn a_reset_on_one_side_is_one_on_the_other() {
    let (guest, _, _worker) = network(open());
    let (listener, port) = listener();
    let connect = || {
        let ours = guest.connect(GATEWAY, port).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        theirs.set_read_timeout(Some(LONG)).unwrap();
        (ours, theirs)
    };
    // Close with unread data causes a reset.
    let (mut ours, mut theirs) = connect();
    theirs.write_all(b"unread").unwrap();
    ours.write_all(b"unread").unwrap();
    ours.read_exact(&mut [0]).unwrap();
    drop(ours);
    let ended =
        std::iter::from_fn(|| theirs.read(&mut [0]).map_err(|error| error.kind()).into()).find(|read| *read != Ok(1));
    assert_eq!(ended, Some(Err(io::ErrorKind::ConnectionReset)));

    let (mut ours, mut theirs) = connect();
    ours.write_all(b"unread").unwrap();
    theirs.read_exact(&mut [0]).unwrap();
    drop(theirs);
    assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    // The end of the worker causes a reset.
    let (_ours, mut theirs) = connect();
    drop(_worker);
    assert_eq!(theirs.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_guest_has_so_many_connections() {
    let (guest, _, _worker) = network(open());
    let (listener, port) = listener();
    let mut held = Vec::new();
    let refused = loop {
        match guest.connect(GATEWAY, port) {
            Ok(stream) => held.push((stream, listener.accept().unwrap().0)),
            Err(error) => break error,
        }
    };
    assert_eq!((refused.kind(), held.len()), (io::ErrorKind::ConnectionRefused, 256));
    // After one connection is closed, there is room for another once the proxy has processed the
    // close.
    let (mut ours, theirs) = held.swap_remove(7);
    drop(theirs);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    drop(ours);
    let mut attempts = 0;
    while guest.connect(GATEWAY, port).is_err() {
        attempts += 1;
        assert!(attempts < 1000);
    }
}

/// After any malformed frames, a valid request is answered.
#[test]
fn frames_that_make_no_sense() {
    let UserNet { guest, _worker, .. } = open().start().unwrap();
    let mut chance = fastrand::Rng::with_seed(7);
    let to = addresses::gateway_mac(Port::mac(&guest));
    let header = [&to[..], &Port::mac(&guest)].concat();
    // TCP SYN to 10.0.2.2:0, UDP datagram to 10.0.2.3:53, ARP request for 10.0.2.2.
    let ip = |protocol, to: u8, rest: &[u8]| {
        let len = 20 + rest.len() as u8;
        [&[8, 0, 0x45, 0, 0, len, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 15, 10, 0, 2, to], rest].concat()
    };
    let frames = [
        ip(6, 2, &[4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 16, 0, 0, 0, 0, 0]),
        ip(17, 3, &[4, 0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]),
        vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2],
    ];
    for round in 0..20_000 {
        let mut frame = [&header[..], &frames[round % frames.len()]].concat();
        for _ in 0..chance.usize(..4) {
            let at = chance.usize(12..frame.len());
            frame[at] = chance.u8(..);
        }
        frame.truncate(chance.usize(14..=frame.len()));
        guest.send(&frame).unwrap();
        while guest.try_receive().is_some() {}
    }
    let guest = Host::new(guest, GUEST).unwrap();
    // The frames in the queue are processed first.
    assert!((0..10).any(|_| guest.ping_timeout(GATEWAY, Duration::from_secs(3)).is_ok()));
}

/// Datagrams from addresses that the guest cannot have are dropped: a reply to such an address
/// would end the tender.
#[test]
fn datagrams_from_nowhere() {
    let UserNet { guest, _worker, .. } = open().start().unwrap();
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    server.set_read_timeout(Some(LONG)).unwrap();
    let port = server.local_addr().unwrap().port().to_be_bytes();
    let to = addresses::gateway_mac(Port::mac(&guest));
    let datagram = |from: [u8; 4]| {
        let udp = [&[4, 0][..], &port, &[0, 10, 0, 0], &from[2..]].concat();
        let mut ip = [&[0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0][..], &from, &[10, 0, 2, 2]].concat();
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        ip[10..12].copy_from_slice(&(!((sum >> 16) + (sum & 0xffff)) as u16).to_be_bytes());
        [&to[..], &Port::mac(&guest), &[8, 0], &ip, &udp].concat()
    };
    for from in [[0, 0, 0, 0], [10, 0, 2, 2], [10, 0, 2, 255], [192, 0, 2, 1], [10, 0, 2, 15]] {
        guest.send(&datagram(from)).unwrap();
    }
    // Only the datagram from the guest's address passes.
    let mut data = [0; 100];
    let (len, from) = server.recv_from(&mut data).unwrap();
    assert_eq!(data[..len], [2, 15]);
    server.send_to(b"back", from).unwrap();
    let guest = Host::new(guest, GUEST).unwrap();
    guest.ping(GATEWAY).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(server.recv_from(&mut data).is_err());
}

/// 100 connections produce more frames than the guest's queue holds. None may be dropped, because
/// each loss doubles TCP's retransmission timeout.
#[test]
fn a_hundred_connections_at_a_time() {
    const CONNECTIONS: usize = 100;
    const LEN: usize = 200_000;
    let UserNet { guest, _worker, .. } = open().start().unwrap();
    let lost = guest.lost();
    let guest = Host::new(guest, GUEST).unwrap();
    let (listener, port) = listener();
    let sent = &bytes(LEN);
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            let guest = &guest;
            scope.spawn(move || {
                let mut received = Vec::new();
                guest.connect(GATEWAY, port).unwrap().read_to_end(&mut received).unwrap();
                assert!(received == *sent, "{} of {LEN}", received.len());
            });
        }
        // All connections are established before any is served.
        let streams: Vec<_> = (0..CONNECTIONS).map(|_| listener.accept().unwrap().0).collect();
        for mut stream in streams {
            scope.spawn(move || stream.write_all(sent).unwrap());
        }
    });
    assert_eq!(lost(), 0);
}

#[test]
fn the_hosts_loopback_is_closed_unless_it_is_opened() {
    let (opened, port) = listener();
    let (closed, other) = listener();
    closed.set_nonblocking(true).unwrap();
    let resolver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    resolver.set_read_timeout(Some(LONG)).unwrap();
    for network_of in [UserNetwork::new(), UserNetwork::new().host_loopback(HostLoopback::Ports([port].into()))] {
        let opens = network_of.loopback != HostLoopback::Closed;
        let (guest, _, _worker) = network(network_of.resolver(resolver.local_addr().unwrap()));
        assert_eq!(guest.connect(GATEWAY, port).is_ok(), opens);
        assert_eq!(guest.connect(GATEWAY, other).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    assert!(opened.accept().is_ok());
    assert_eq!(closed.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn debuggers_of_this_process_are_closed_to_its_guests() {
    use crate::gdb::Debugger;
    let (guest, _, _worker) = network(open());
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let debugger = Debugger::listen(address).unwrap();
        let port = debugger.address().unwrap().port();
        let refused = guest.connect(GATEWAY, port).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Only the debugger is closed: another listener on the same port is reachable.
        drop(debugger);
        let _other = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        guest.connect(GATEWAY, port).unwrap();
    }
}

#[test]
fn addresses_that_cannot_be_opened() {
    for address in [[127, 0, 0, 1], [0, 0, 0, 0], [10, 0, 2, 2], [192, 0, 2, 1], [224, 0, 0, 1]] {
        let error = UserNetwork::new().allow(address.into()).start().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("cannot be allowed"), "{error}");
    }
    for address in [[169, 254, 169, 254], [168, 63, 129, 16], [100, 100, 100, 200], [192, 0, 0, 192]] {
        UserNetwork::new().allow(address.into()).start().unwrap();
    }
}

/// Network that the test drives by hand instead of a thread.
struct ByHand {
    proxy: Proxy,
    guest: Port,
    doorbell: Arc<StackDoorbell>,
    ready: proxy::Ready,
}

impl ByHand {
    /// Creates a network with a queue of `queue` frames at each end of the link to the guest.
    fn new(queue: usize) -> Self {
        let (guest, ours) = Link::new().queue(queue).ports().unwrap();
        let resolver = (Ipv4Addr::LOCALHOST, 53).into();
        let policy = Policy { resolver, loopback: HostLoopback::All, opened: Vec::new() };
        let doorbell = StackDoorbell::new().unwrap();
        let ours = ours.with_mac(addresses::gateway_mac(guest.mac()));
        let proxy = Proxy::new(ours, Vec::new(), policy, doorbell.clone(), 7).unwrap();
        let by_hand = Self { proxy, guest, doorbell, ready: proxy::Ready::default() };
        // From this ARP request, the network learns the guest's hardware address.
        let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2];
        by_hand.send([8, 6], &arp);
        by_hand
    }

    fn send(&self, kind: [u8; 2], packet: &[u8]) {
        let mac = Port::mac(&self.guest);
        self.guest.send(&[&addresses::gateway_mac(mac)[..], &mac, &kind, packet].concat()).unwrap();
    }

    /// Sends a datagram from the guest to a port of the host's loopback.
    fn send_to(&self, port: u16, data: &[u8]) {
        self.send([8, 0], &udp::packet(SocketAddrV4::new(GUEST, 1024), SocketAddrV4::new(GATEWAY, port), data));
    }

    fn turn(&mut self) {
        self.proxy.turn(&self.ready);
        self.doorbell.ring();
        self.ready = self.proxy.wait(&self.doorbell).unwrap();
        self.doorbell.silence();
    }

    /// Receives all queued frames and returns the number of IPv4 packets.
    fn packets(&self) -> usize {
        std::iter::from_fn(|| self.guest.try_receive()).filter(|frame| frame[12..14] == [8, 0]).count()
    }
}

fn silent_servers(count: usize) -> Vec<UdpSocket> {
    let server = || {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        server.set_nonblocking(true).unwrap();
        server
    };
    std::iter::repeat_with(server).take(count).collect()
}

#[test]
fn datagrams_that_the_guest_sends_at_once_all_arrive() {
    let mut network = ByHand::new(1024);
    let server = &silent_servers(1)[0];
    let port = server.local_addr().unwrap().port();
    (0..200).for_each(|number| network.send_to(port, &[number; 10]));
    (0..5).for_each(|_| network.turn());
    let received = std::iter::from_fn(|| {
        let mut data = [0; 10];
        server.recv(&mut data).ok().map(|_| data[0])
    });
    assert!(received.eq(0..200));
}

/// Datagrams that find no room in the guest's queue wait in the host's sockets.
#[test]
fn datagrams_for_a_guest_that_is_busy_wait() {
    const SERVERS: usize = 8;
    const EACH: usize = 30;
    let mut network = ByHand::new(64);
    let servers = silent_servers(SERVERS);
    for server in &servers {
        network.send_to(server.local_addr().unwrap().port(), &[]);
        network.turn();
        let (_, from) = server.recv_from(&mut [0]).unwrap();
        server.connect(from).unwrap();
    }
    network.packets();
    for server in &servers {
        (0..EACH).for_each(|_| assert_eq!(server.send(&[1; 1400]).unwrap(), 1400));
    }
    (0..20).for_each(|_| network.turn());
    let lost = network.guest.lost();
    let mut received = network.packets();
    assert!((1..=48).contains(&received), "{received}: a quarter of the queue is for replies");
    while received < SERVERS * EACH {
        network.turn();
        let packets = network.packets();
        assert_ne!(packets, 0, "after {received}");
        received += packets;
    }
    assert_eq!((received, lost()), (SERVERS * EACH, 0));
}

/// While the guest's queue is full, the network does no work until the guest receives frames.
#[test]
fn a_guest_that_takes_nothing_costs_nothing() {
    let mut network = ByHand::new(8);
    let server = &silent_servers(1)[0];
    network.send_to(server.local_addr().unwrap().port(), &[]);
    network.turn();
    let (_, from) = server.recv_from(&mut [0]).unwrap();
    (0..100).for_each(|_| drop(server.send_to(&[1; 100], from)));
    (0..10).for_each(|_| network.turn());
    network.proxy.turn(&network.ready);
    let start = std::time::Instant::now();
    network.ready = network.proxy.wait(&network.doorbell).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    // The network is woken as soon as there is room.
    network.proxy.turn(&network.ready);
    assert_ne!(network.packets(), 0);
    let start = std::time::Instant::now();
    network.proxy.wait(&network.doorbell).unwrap();
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}
