//! C bindings for Solo5 HVT unikernels: the functions that `solo5.h` of Solo5 v0.12 declares,
//! implemented with [`guest_bindings`]. They also serve languages that compile to C-compatible
//! objects.
//!
//! `scripts/cc-guest` compiles and links a guest. `scripts/cc-guest --install` installs headers,
//! linker script and library for other build tools. `include/solo5.h` documents the functions and
//! is compatible with Solo5: objects compiled with Solo5's own header link with this library, and
//! guests linked with this library run on Solo5's tender as well.
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
//! This library supports two cases that Solo5 v0.12 leaves open: a block transfer may have any
//! number of whole blocks, and a TLS block may have any address. An application that must also run
//! with Solo5's bindings cannot rely on them.
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
