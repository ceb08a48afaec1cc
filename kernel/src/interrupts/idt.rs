//! The interrupt descriptor table, and the handlers of all vectors.

use core::arch::x86_64::__cpuid;
use core::sync::atomic::Ordering;

use heap_x86_64::smp;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr2, Cr4, Cr4Flags};
use x86_64::structures::idt::{InterruptDescriptorTable, InterruptStackFrame, PageFaultErrorCode};

use super::fault::{Cause, Fault, PageFault};
use super::irq::{self, Irq};
use super::{apic, local_timer};
use crate::memory::stacks::InterruptStack;
use crate::serial::println_unlocked;

static TABLE: Once<InterruptDescriptorTable> = Once::new();

pub(super) fn init() {
    TABLE.call_once(table).load();
    enable_machine_checks();
}

/// Makes the CPU raise an exception when it detects an error of the hardware. Otherwise the CPU
/// shuts down, and the machine resets without a report.
fn enable_machine_checks() {
    /// The bit of leaf 1 of `cpuid`, register EDX, that says whether the CPU has this exception.
    const MACHINE_CHECK: u32 = 1 << 7;

    if __cpuid(1).edx & MACHINE_CHECK != 0 {
        // SAFETY: `cpuid` says that CR4 has this bit, and the table with the handler is loaded.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION)) };
    }
}

/// Defines handlers of exceptions that end the kernel.
macro_rules! fatal {
    ($($handler:ident = $name:literal;)*) => {$(
        extern "x86-interrupt" fn $handler(frame: InterruptStackFrame) {
            let cause = Cause::Exception { name: $name, code: None };
            Fault { cause, frame: &frame }.report_and_exit()
        }
    )*};
}

/// Defines handlers of exceptions that end the kernel and have an error code.
macro_rules! fatal_with_code {
    ($($handler:ident = $name:literal;)*) => {$(
        extern "x86-interrupt" fn $handler(frame: InterruptStackFrame, code: u64) {
            let cause = Cause::Exception { name: $name, code: Some(code) };
            Fault { cause, frame: &frame }.report_and_exit()
        }
    )*};
}

fatal! {
    divide_error = "divide error";
    debug = "debug exception";
    overflow = "overflow";
    bound_range = "bound range exceeded";
    invalid_opcode = "invalid opcode";
    no_device = "device not available";
    x87 = "x87 floating-point exception";
    simd = "SIMD floating-point exception";
    virtualization = "virtualization exception";
}

fatal_with_code! {
    invalid_task_state = "invalid TSS";
    no_segment = "segment not present";
    stack_segment = "stack-segment fault";
    general_protection = "general protection fault";
    alignment = "alignment check";
}

/// Makes the table.
fn table() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    table.divide_error.set_handler_fn(divide_error);
    table.debug.set_handler_fn(debug);
    table.breakpoint.set_handler_fn(breakpoint);
    table.overflow.set_handler_fn(overflow);
    table.bound_range_exceeded.set_handler_fn(bound_range);
    table.invalid_opcode.set_handler_fn(invalid_opcode);
    table.device_not_available.set_handler_fn(no_device);
    table.invalid_tss.set_handler_fn(invalid_task_state);
    table.segment_not_present.set_handler_fn(no_segment);
    table.stack_segment_fault.set_handler_fn(stack_segment);
    table
        .general_protection_fault
        .set_handler_fn(general_protection);
    table.x87_floating_point.set_handler_fn(x87);
    table.alignment_check.set_handler_fn(alignment);
    table.simd_floating_point.set_handler_fn(simd);
    table.virtualization.set_handler_fn(virtualization);
    let double_fault = table.double_fault.set_handler_fn(double_fault);
    let page_fault = table.page_fault.set_handler_fn(page_fault);
    let non_maskable = table.non_maskable_interrupt.set_handler_fn(non_maskable);
    let machine_check = table.machine_check.set_handler_fn(machine_check);
    for (options, stack) in [
        (double_fault, InterruptStack::DoubleFault),
        (page_fault, InterruptStack::PageFault),
        (non_maskable, InterruptStack::NonMaskable),
        (machine_check, InterruptStack::MachineCheck),
    ] {
        // SAFETY: `gdt::init` has loaded a task state segment with these stacks, and each stack
        // serves one vector only.
        unsafe { options.set_stack_index(stack.index()) };
    }
    set_line_handlers(&mut table);
    table[apic::CALL_VECTOR].set_handler_fn(call);
    table[apic::TIMER_VECTOR].set_handler_fn(local_timer);
    table[apic::SPURIOUS_VECTOR].set_handler_fn(spurious);
    table
}

/// Defines `set_line_handlers`, which sets a handler for each line of the interrupt controllers.
macro_rules! lines {
    ($($line:literal)*) => {
        fn set_line_handlers(table: &mut InterruptDescriptorTable) {
            $({
                extern "x86-interrupt" fn handler(_frame: InterruptStackFrame) {
                    irq::dispatch(Irq::of_line::<$line>());
                }
                table[irq::FIRST_VECTOR + $line].set_handler_fn(handler);
            })*
        }
    };
}

lines!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

/// Does what another CPU wants of this one.
extern "x86-interrupt" fn call(_frame: InterruptStackFrame) {
    // Told first: a request that comes from now on has an interrupt of its own.
    apic::end_of_interrupt();
    smp::handle_interrupt();
}

/// Handles a tick of this CPU's own timer.
extern "x86-interrupt" fn local_timer(_frame: InterruptStackFrame) {
    apic::end_of_interrupt();
    local_timer::tick();
    crate::console::draw_after_interrupt();
}

/// Ignores an interrupt that was taken back while the CPU answered. It is not in service.
extern "x86-interrupt" fn spurious(_frame: InterruptStackFrame) {}

/// Stops the CPU if another one has crashed, which sends this interrupt, and reports it otherwise.
extern "x86-interrupt" fn non_maskable(frame: InterruptStackFrame) {
    crate::panic::stop_if_told();
    let cause = Cause::Exception {
        name: "non-maskable interrupt",
        code: None,
    };
    Fault {
        cause,
        frame: &frame,
    }
    .report_and_exit()
}

/// Reports a breakpoint, and returns to the program. The breakpoint may be in code that prints, so
/// the report takes no lock.
extern "x86-interrupt" fn breakpoint(frame: InterruptStackFrame) {
    println_unlocked!("breakpoint at {:#x}", frame.instruction_pointer);
    super::LAST_BREAKPOINT.store(frame.instruction_pointer.as_u64(), Ordering::Relaxed);
}

extern "x86-interrupt" fn double_fault(frame: InterruptStackFrame, code: u64) -> ! {
    let cause = Cause::Exception {
        name: "double fault",
        code: Some(code),
    };
    Fault {
        cause,
        frame: &frame,
    }
    .report_and_exit()
}

extern "x86-interrupt" fn machine_check(frame: InterruptStackFrame) -> ! {
    let cause = Cause::Exception {
        name: "machine check",
        code: None,
    };
    Fault {
        cause,
        frame: &frame,
    }
    .report_and_exit()
}

extern "x86-interrupt" fn page_fault(frame: InterruptStackFrame, code: PageFaultErrorCode) {
    let address = Cr2::read().unwrap_or_else(|invalid| VirtAddr::new_truncate(invalid.0));
    let cause = Cause::Page(PageFault { address, code });
    Fault {
        cause,
        frame: &frame,
    }
    .report_and_exit()
}
