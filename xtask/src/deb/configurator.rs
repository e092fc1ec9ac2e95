//! `acrn-configurator`: the web application in which scenarios are made.

use acrn_deb::{Control, Package};
use anyhow::Result;

use super::{new, tools};
use crate::image;
use crate::layout::Layout;

/// The program, and at the same time its package.
pub(super) const NAME: &str = "acrn-configurator";

pub(super) fn package(layout: &Layout, version: &str) -> Result<Package> {
    let mut package = new(layout, control(version))?;
    tools::add_program(layout, &mut package, &image::configurator(layout)?)?;
    tools::add_manual_pages(layout, &mut package, |page| page.starts_with(NAME))?;
    package.lintian(&[
        "# The same program runs on any Linux, whatever its C library.",
        "acrn-configurator: shared-library-lacks-prerequisites",
    ]);
    Ok(package)
}

fn control(version: &str) -> Control {
    Control {
        name: NAME.into(),
        version: version.into(),
        architecture: "amd64".into(),
        section: "admin".into(),
        relations: vec![("Recommends", "xdg-utils".into()), ("Suggests", "acrn-tools".into())],
        summary: "lays out VMs of the ACRN hypervisor in a browser".into(),
        description: vec![
            "A web application for one person: scenarios are made of a board file and a preset, with a picture of \
             who has what, and with everything that is wrong said while one edits."
                .into(),
            "It makes the configuration that the hypervisor boots with, launch scripts of User VMs, a Debian package \
             of the scenario, and a summary. It needs neither the hypervisor nor the machine that it is for."
                .into(),
        ],
    }
}
