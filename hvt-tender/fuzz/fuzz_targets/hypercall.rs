#![no_main]

libfuzzer_sys::fuzz_target!(|guest: hvt_tender_fuzz::hypercall::Guest| {
    hvt_tender_fuzz::hypercall::check(guest);
});
