//! `[ … ]` and `test` (`grub-core/commands/test.c`).

/// Deepest nesting of parentheses (`MAX_TEST_RECURSION_DEPTH`).
const MAX_DEPTH: usize = 100;

/// What a test asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileTest {
    /// `-d`.
    Directory,
    /// `-e`.
    Exists,
    /// `-f`.
    File,
    /// `-s`: the only one that reads, and so measures, the file.
    NotEmpty,
}

/// Evaluates the arguments after `[`, its `]` included; `file` answers about files, in order.
///
/// # Errors
/// Whatever `file` gives; and, as a text, what no log and no file can tell.
pub(super) fn evaluate<E: From<String>>(
    arguments: &[String],
    file: &mut dyn FnMut(FileTest, &str) -> Result<bool, E>,
) -> Result<bool, E> {
    let arguments = match arguments.split_last() {
        Some((last, rest)) if last == "]" => rest,
        _ => arguments,
    };
    Test { arguments, at: 0, depth: 0, file }.expression()
}

struct Test<'a, E> {
    arguments: &'a [String],
    at: usize,
    depth: usize,
    file: &'a mut dyn FnMut(FileTest, &str) -> Result<bool, E>,
}

/// One run of terms: a conjunction, and whether one before an `-o` held.
struct Run {
    or: bool,
    and: bool,
    invert: bool,
}

impl Run {
    fn update(&mut self, value: bool) {
        self.and = self.and && (value != self.invert);
        self.invert = false;
    }

    fn result(&self) -> bool {
        self.or || self.and
    }
}

impl<E: From<String>> Test<'_, E> {
    fn argument(&self, ahead: usize) -> Option<&str> {
        self.arguments.get(self.at + ahead).map(String::as_str)
    }

    fn expression(&mut self) -> Result<bool, E> {
        let mut run = Run { or: false, and: true, invert: false };
        while let Some(first) = self.argument(0).map(str::to_owned) {
            if let (Some(operator), Some(third)) = (self.argument(1), self.argument(2))
                && let Some(value) = binary(&first, operator, third)?
            {
                self.at += 3;
                run.update(value);
                continue;
            }
            if let Some(second) = self.argument(1).map(str::to_owned)
                && let Some(value) = self.unary(&first, &second)?
            {
                self.at += 2;
                run.update(value);
                continue;
            }
            self.at += 1;
            match first.as_str() {
                ")" => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(run.result());
                }
                "(" => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Ok(run.result());
                    }
                    let inner = self.expression()?;
                    run.update(inner);
                }
                "!" => run.invert = !run.invert,
                "-a" => {}
                "-o" => {
                    run.or = run.result();
                    run.and = true;
                }
                text => run.update(!text.is_empty()),
            }
        }
        Ok(run.result())
    }

    fn unary(&mut self, operator: &str, operand: &str) -> Result<Option<bool>, E> {
        let test = match operator {
            "-d" => FileTest::Directory,
            "-e" => FileTest::Exists,
            "-f" => FileTest::File,
            "-s" => FileTest::NotEmpty,
            "-n" => return Ok(Some(!operand.is_empty())),
            "-z" => return Ok(Some(operand.is_empty())),
            _ => return Ok(None),
        };
        (self.file)(test, operand).map(Some)
    }
}

fn binary<E: From<String>>(left: &str, operator: &str, right: &str) -> Result<Option<bool>, E> {
    let numbers = || (signed(left), signed(right));
    let ordered = || left.as_bytes().cmp(right.as_bytes());
    Ok(Some(match operator {
        "=" | "==" => left == right,
        "!=" => left != right,
        "<" => ordered().is_lt(),
        "<=" => ordered().is_le(),
        ">" => ordered().is_gt(),
        ">=" => ordered().is_ge(),
        "-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge" => {
            let (left, right) = numbers();
            match operator {
                "-eq" => left == right,
                "-ne" => left != right,
                "-lt" => left < right,
                "-le" => left <= right,
                "-gt" => left > right,
                _ => left >= right,
            }
        }
        "-pgt" | "-plt" => {
            let (left, right) = without_prefix(left, right);
            if operator == "-pgt" { left > right } else { left < right }
        }
        _ if operator.starts_with("-nt") || operator.starts_with("-ot") => {
            return Err("comparing times of files is not modelled".to_owned().into());
        }
        _ => return Ok(None),
    }))
}

/// `grub_strtosl`: base by prefix, and no more than the leading digits.
pub(super) fn signed(text: &str) -> i128 {
    match text.strip_prefix('-') {
        Some(rest) => -i128::from(unsigned(rest)),
        None => i128::from(unsigned(text)),
    }
}

fn unsigned(text: &str) -> u64 {
    let text = text.trim_start();
    let (digits, base) = match text.strip_prefix('0') {
        Some(rest) => match rest.strip_prefix(['x', 'X']) {
            Some(hex) => (hex, 16),
            None => (text, 8),
        },
        None => (text, 10),
    };
    let mut value = 0_u64;
    for digit in digits.chars().map_while(|c| c.to_digit(base)) {
        let next = value.checked_mul(base.into()).and_then(|v| v.checked_add(digit.into()));
        let Some(next) = next else { return u64::MAX };
        value = next;
    }
    value
}

/// The numbers where two texts start to differ, a number's first digit being its start.
fn without_prefix(left: &str, right: &str) -> (u64, u64) {
    let common = left.bytes().zip(right.bytes()).take_while(|(l, r)| l == r).count();
    let mut start = common;
    let digit = |at: usize| left.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    while start > 1 && digit(start - 1) {
        start -= 1;
    }
    (unsigned(left.get(start..).unwrap_or("")), unsigned(right.get(start..).unwrap_or("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str) -> bool {
        let arguments: Vec<String> = text.split(' ').map(str::to_owned).collect();
        evaluate::<String>(&arguments, &mut |_, path| Ok(path.starts_with('/'))).unwrap()
    }

    #[test]
    fn tests_as_grub_evaluates_them() {
        for (text, expected) in [
            ("a = a ]", true),
            ("! a = a ]", false),
            (" ]", false),
            ("x ]", true),
            ("-z  ]", true),
            ("-n x -a -f /k ]", true),
            ("-e k -o -s /k ]", true),
            ("a = b -o ( a = a -a ! -d k ) ]", true),
            ("2 -lt 0x10 ]", true),
            ("-1 -ge 0 ]", false),
            ("vmlinuz-2 -plt vmlinuz-11 ]", true),
            ("b > a ]", true),
            ("a = ]", true),
        ] {
            assert_eq!(holds(text), expected, "{text}");
        }
    }

    #[test]
    fn parentheses_are_bounded() {
        holds(&"( ".repeat(10_000));
        let times = ["a", "-nt", "b"].map(str::to_owned);
        assert!(evaluate::<String>(&times, &mut |_, _| Ok(true)).is_err());
    }
}
