//! What a Solo5 HVT unikernel written in C, or in a language that compiles to what C links with, links: the functions
//! that `solo5.h` of Solo5 v0.12 declares, over [`guest_bindings`].
//!
//! `scripts/cc-guest` compiles and links; its `--install` leaves headers, linker script and library for other tools.
//! `include/solo5.h` says what the functions do, and is compatible by declaration: what was compiled with Solo5's own
//! header links as well, and what is linked with this runs on Solo5's tender as on this one.
//!
//! | module | functions |
//! |---|---|
//! | `life` | `solo5_app_main`, which the application defines; `solo5_exit`, `solo5_abort` |
//! | `time` | `solo5_clock_monotonic`, `solo5_clock_wall`, `solo5_yield` |
//! | `console` | `solo5_console_write` |
//! | `net`, `block` | `solo5_net_*`, `solo5_block_*` |
//! | `tls` | `solo5_tls_*`, `solo5_set_tls_base` |
//! | `guard` | `__stack_chk_guard`, `__stack_chk_fail` for `-mstack-protector-guard=global` |
//!
//! Where Solo5 v0.12 leaves room, this library uses it: a block transfer may be of any number of whole blocks, and a TLS
//! block may lie at any address. An application that is to run with Solo5's bindings as well must not rely on that.
#![no_std]

mod arch;
mod block;
mod console;
mod device;
mod guard;
mod life;
mod net;
mod time;
mod tls;

guest_bindings::notes!();
guest_bindings::entry!(raw life::main);
