//! The `braid` program: see [`braid::cli`].

fn main() -> std::process::ExitCode {
    braid::cli::main(std::env::args_os())
}
