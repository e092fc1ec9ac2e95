//! The program `acrn-dm`; everything is in the library.

fn main() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        acrn_dm::terminal::restore();
        usual(panic);
    }));
    std::process::exit(acrn_dm::main(std::env::args_os()));
}
