//! The three consoles behind one serial line, as a person at the keyboard uses them: the
//! hypervisor's shell, the Service VM's shell and a User VM's console.
//!
//! A kernel's message may cut into a line, and output of a console that is not shown may
//! be lost; so a wait for a prompt presses Enter now and then, and a command is bracketed
//! by numbered marks of its own instead of relying on prompts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::console::{ConsoleError, Found};
use crate::machine::Vm;

/// Prompt of the hypervisor's shell.
pub const HYPERVISOR_PROMPT: &str = "ACRN:\\>";
/// Prompt of the Service VM's shell, without its directory.
pub const SERVICE_PROMPT: &str = "root@service-vm:";
/// Leaves a VM's console for the hypervisor's shell: Ctrl-Space, then `e`.
pub const ESCAPE: &[u8] = b"\0e";
/// How the escape is called where it is explained.
pub const ESCAPE_KEYS: &str = "Ctrl-Space, then e";
/// Password of a User VM's root.
pub const USER_PASSWORD: &str = "acrn";

/// After these nothing better follows: the hypervisor's dump, and Linux's.
const FATAL: &[&str] = &["*** acrn:", "Kernel panic - not syncing"];
/// Time for the rest of a dump to reach the log.
const DUMP_TIME: Duration = Duration::from_secs(3);

/// After this much silence a wait for a prompt presses Enter.
const NUDGE: Duration = Duration::from_secs(4);
/// Time for an answer that needs no work.
const PROMPT_LIMIT: Duration = Duration::from_secs(30);

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status.
    pub status: i32,
    /// Standard output and error as the console showed them, trimmed.
    pub text: String,
}

/// A running machine and the console that its serial line shows.
pub struct Session {
    /// The machine.
    pub vm: Vm,
    marks: u32,
    /// The hypervisor's shell is shown, so that the escape would be a word for it.
    in_shell: bool,
}

impl Session {
    /// Takes over a machine that has just been started.
    #[must_use]
    pub fn new(vm: Vm) -> Self {
        Self {
            vm,
            marks: 0,
            in_shell: false,
        }
    }

    /// Waits for the first sign that the hypervisor runs, be it its own prompt or the
    /// first lines of the kernel that it started.
    ///
    /// # Errors
    /// Neither appears within `limit`.
    pub fn wait_for_hypervisor(&mut self, limit: Duration) -> Result<()> {
        let signs = [HYPERVISOR_PROMPT, "Linux version", SERVICE_PROMPT];
        self.wait(&signs, limit).map(drop)
    }

    /// Waits for the Service VM's shell. Where the hypervisor's shell comes first, as it
    /// does after a boot, changes over to the Service VM's console.
    ///
    /// # Errors
    /// The shell does not appear within `limit`.
    pub fn wait_for_service_shell(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let found = self.wait_nudging(&[SERVICE_PROMPT, HYPERVISOR_PROMPT], deadline)?;
            if found.index == 0 {
                return Ok(());
            }
            self.vm.console.send_line("vm_console 0")?;
        }
    }

    /// Changes from a VM's console to the hypervisor's shell, unless it is shown.
    ///
    /// # Errors
    /// Its prompt does not appear.
    pub fn to_hypervisor(&mut self) -> Result<()> {
        if self.in_shell {
            return Ok(());
        }
        self.vm.console.skip_unread();
        self.vm.console.send(ESCAPE)?;
        let deadline = Instant::now() + PROMPT_LIMIT;
        self.wait_nudging(&[HYPERVISOR_PROMPT], deadline)?;
        self.in_shell = true;
        Ok(())
    }

    /// Runs a command of the hypervisor's shell, which must be shown, and returns what it
    /// printed.
    ///
    /// # Errors
    /// The prompt does not come back.
    pub fn hypervisor_command(&mut self, command: &str) -> Result<String> {
        self.vm.console.skip_unread();
        self.vm.console.send_line(command)?;
        // A message of the hypervisor repeats its prompt: only one after the echo counts.
        self.expect(command, PROMPT_LIMIT)?;
        let text = self.expect(HYPERVISOR_PROMPT, PROMPT_LIMIT)?;
        let text = text.replace("\r\n", "\n");
        Ok(text.trim().to_owned())
    }

    /// Changes from the hypervisor's shell to the console of a VM, if it has one by now; says
    /// whether it has.
    ///
    /// # Errors
    /// The hypervisor's shell gives no answer.
    pub fn show(&mut self, number: u16) -> Result<bool> {
        self.vm.console.send_line(&format!("vm_console {number}"))?;
        let answers = ["comes back here", "has no console", "there is no VM"];
        let found = self.wait(&answers, PROMPT_LIMIT)?;
        if found.index != 0 {
            self.expect(HYPERVISOR_PROMPT, PROMPT_LIMIT)?;
        }
        self.in_shell = found.index != 0;
        Ok(!self.in_shell)
    }

    /// Changes to the Service VM's console, from any other.
    ///
    /// # Errors
    /// The shell there does not answer.
    pub fn to_service(&mut self) -> Result<()> {
        self.to_hypervisor()?;
        self.show(0)?;
        self.vm.console.send(b"\r")?;
        self.wait_for_service_shell(PROMPT_LIMIT)
    }

    /// The hypervisor's number of the VM with this name, if it exists. The hypervisor counts in the order in which
    /// VMs start.
    ///
    /// # Errors
    /// The hypervisor's shell gives no answer.
    pub fn number_of(&mut self, name: &str) -> Result<Option<u16>> {
        self.to_hypervisor()?;
        let list = self.hypervisor_command("vm_list")?;
        Ok(number_in(&list, name))
    }

    /// Changes to the console of a User VM where somebody is logged in.
    ///
    /// # Errors
    /// The shell there does not answer.
    pub fn to_user_shell(&mut self, id: u16) -> Result<()> {
        let number = self.number_of(&user_vm(id))?;
        let number = number.with_context(|| format!("User VM {id} does not exist"))?;
        ensure!(self.show(number)?, "User VM {id} has no console");
        self.vm.console.send(b"\r")?;
        let deadline = Instant::now() + PROMPT_LIMIT;
        self.wait_nudging(&[&format!("root@user-vm{id}:")], deadline)?;
        Ok(())
    }

    /// Changes to a User VM's console and waits until it asks for a name; repeats the
    /// change while the VM does not exist yet or starts again.
    ///
    /// # Errors
    /// No log-in prompt appears within `limit`.
    pub fn to_user_login(&mut self, id: u16, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let login = format!("user-vm{id} login:");
        loop {
            let number = self.number_of(&user_vm(id))?;
            if let Some(number) = number
                && self.show(number)?
            {
                // The hypervisor's prompt comes back when the VM goes away.
                let found = self.wait_nudging(&[&login, HYPERVISOR_PROMPT], deadline)?;
                if found.index == 0 {
                    return Ok(());
                }
                self.in_shell = true;
            }
            if Instant::now() > deadline {
                bail!("User VM {id} did not appear within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Logs in to the User VM whose console asks for a name.
    ///
    /// # Errors
    /// Name or password are refused.
    pub fn log_in(&mut self, id: u16) -> Result<()> {
        self.log_in_to(&format!("user-vm{id}"))
    }

    /// Logs in where the VM with this host name asks for a name.
    ///
    /// # Errors
    /// Name or password are refused.
    pub fn log_in_to(&mut self, host: &str) -> Result<()> {
        self.vm.console.send_line("root")?;
        self.expect("Password:", PROMPT_LIMIT)?;
        self.vm.console.send_line(USER_PASSWORD)?;
        self.expect(&format!("root@{host}:"), PROMPT_LIMIT)?;
        Ok(())
    }

    /// Changes to the console of a VM and waits for the shell of somebody who is logged in, or logs
    /// in.
    ///
    /// # Errors
    /// Neither the shell nor the question for a name appears within `limit`.
    pub fn to_guest(&mut self, number: u16, host: &str, limit: Duration) -> Result<()> {
        self.to_hypervisor()?;
        ensure!(self.show(number)?, "VM {number} has no console");
        self.reach_shell_of(host, Instant::now() + limit)
    }

    /// The same for the VM with this name, once it is there and has a console.
    ///
    /// # Errors
    /// As for [`Self::to_guest`].
    pub fn to_named_guest(&mut self, name: &str, host: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(number) = self.number_of(name)?
                && self.show(number)?
            {
                return self.reach_shell_of(host, deadline);
            }
            if Instant::now() > deadline {
                bail!("VM {name} did not appear within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn reach_shell_of(&mut self, host: &str, deadline: Instant) -> Result<()> {
        self.vm.console.send(b"\r")?;
        let signs = [format!("root@{host}:"), format!("{host} login:")];
        let signs = signs.each_ref().map(String::as_str);
        match self.wait_nudging(&signs, deadline)?.index {
            0 => Ok(()),
            _ => self.log_in_to(host),
        }
    }

    /// Waits for a text.
    ///
    /// # Errors
    /// It does not appear within `limit`.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait(&[text], limit).map(|found| found.before)
    }

    /// Runs a command in the Linux shell that is shown.
    ///
    /// # Errors
    /// It does not end within `limit`; a failure of the command is no error.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        self.marks += 1;
        let mark = self.marks;
        // The quotes keep the echo of this line from looking like the marks themselves.
        let line = format!("echo @{mark}'<'; {command}; echo @{mark}'='$?@");
        self.vm.console.send_line(&line)?;
        self.expect(&format!("@{mark}<"), limit)
            .with_context(|| format!("the shell did not take the command `{command}`"))?;
        let text = self
            .expect(&format!("@{mark}="), limit)
            .with_context(|| format!("the command `{command}` did not end"))?;
        let status = self.expect("@", PROMPT_LIMIT)?;
        let status = status
            .trim()
            .parse()
            .with_context(|| format!("the exit status of `{command}` is unreadable: {status:?}"))?;
        Ok(Output {
            status,
            text: without_messages(&text.replace("\r\n", "\n"))
                .trim()
                .to_owned(),
        })
    }

    /// Runs a command that must succeed and returns what it printed.
    ///
    /// # Errors
    /// It fails, or does not end within `limit`.
    pub fn check(&mut self, command: &str, limit: Duration) -> Result<String> {
        let output = self.run(command, limit)?;
        if output.status != 0 {
            bail!(
                "`{command}` failed with status {}: {}",
                output.status,
                output.text
            );
        }
        Ok(output.text)
    }

    /// Switches the machine off from the Linux shell that is shown and waits for its end.
    ///
    /// # Errors
    /// It does not end within `limit`.
    pub fn power_off(&mut self, limit: Duration) -> Result<()> {
        self.vm.console.send_line("poweroff")?;
        self.vm.wait_for_end(limit).map(drop)
    }

    fn wait_nudging(&mut self, texts: &[&str], deadline: Instant) -> Result<Found> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wait(texts, NUDGE.min(left)) {
                Err(error) if left > NUDGE && is_time_out(&error) => {
                    self.vm.console.send(b"\r")?;
                }
                other => return other,
            }
        }
    }

    /// Waits for one of `texts`, and not to the bitter end where a dump appears instead.
    ///
    /// # Errors
    /// None of them appears within `limit`, or a dump does.
    pub fn wait(&mut self, texts: &[&str], limit: Duration) -> Result<Found> {
        let all: Vec<&str> = texts.iter().chain(FATAL).copied().collect();
        let found = self.vm.console.wait_for_any(&all, limit);
        let found = found.map_err(|error| self.explain(error))?;
        if found.index < texts.len() {
            return Ok(found);
        }
        std::thread::sleep(DUMP_TIME);
        bail!(
            "{:?} appeared; the console's last lines:\n{}",
            all[found.index],
            self.vm.console.tail(40)
        );
    }

    /// Adds what the emulator said to an error of its console.
    fn explain(&self, error: ConsoleError) -> anyhow::Error {
        let messages = self.vm.messages();
        let closed = matches!(error, ConsoleError::Closed { .. });
        let error = anyhow::Error::new(error);
        if closed && !messages.is_empty() {
            return error.context(format!("{} said:\n{messages}", self.vm.emulator().name()));
        }
        error
    }
}

fn is_time_out(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ConsoleError>()
        .is_some_and(|error| matches!(error, ConsoleError::TimedOut { .. }))
}

/// What a guest printed, without the hypervisor's messages, which share its console:
/// `[    12.345678][cpu0] info: …` to the end of the line.
fn without_messages(text: &str) -> String {
    let mut rest = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let message = line.find("][cpu").and_then(|end| {
            let start = line[..end].rfind('[')?;
            let time = line[start + 1..end].trim_start();
            let is_time =
                time.contains('.') && time.chars().all(|c| c.is_ascii_digit() || c == '.');
            is_time.then_some(start)
        });
        match message {
            Some(0) => {}
            Some(start) => {
                rest.push_str(&line[..start]);
                rest.push('\n');
            }
            None => rest.push_str(line),
        }
    }
    rest
}

/// The name of a User VM that was started with this id.
fn user_vm(id: u16) -> String {
    format!("POST_STD_VM{id}")
}

/// The first column of the line with this name in what `vm_list` prints.
fn number_in(list: &str, name: &str) -> Option<u16> {
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse().ok()?;
        (words.next() == Some(name)).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hypervisors_messages_are_no_output_of_a_guest() {
        let text = "[   504.856403][cpu0] info: vm1 is gone\n745\na[0][cpu] stays\n\
                    half[     1.000000][cpu1] warn: x\n[  12.34] Linux\n";
        assert_eq!(
            without_messages(text),
            "745\na[0][cpu] stays\nhalf\n[  12.34] Linux\n"
        );
    }

    #[test]
    fn a_vm_is_found_by_its_name() {
        let list = "VM ID NAME          STATE\n0     Service_VM    running\n\
                    1     POST_STD_VM2  running";
        assert_eq!(number_in(list, "POST_STD_VM2"), Some(1));
        assert_eq!(number_in(list, "POST_STD_VM1"), None);
    }
}
