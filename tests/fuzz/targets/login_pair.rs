#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| braid_fuzz::login_pair::run(data));
