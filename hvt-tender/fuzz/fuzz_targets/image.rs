#![no_main]

libfuzzer_sys::fuzz_target!(|file: hvt_tender_fuzz::image::File| {
    hvt_tender_fuzz::image::check(file);
});
