//! Property test: any sequence of calls, on a kernel with much memory or hardly any. A simple model
//! must allow each result, and once all handles are closed, every frame is free.

use proptest::prelude::*;

use super::*;

/// Number of guest pages that the sequences use.
const GUEST_PAGES: u64 = 24;
const USER_PAGES: u64 = 20;

#[derive(Clone, Debug)]
enum Step {
    Create { on: usize, kind: bool },
    Duplicate { of: usize },
    Close { which: usize },
    GiveUp { page: usize },
    Map { on: usize, gpa: u64, from: u64, pages: u64, permissions: u32 },
    Unmap { on: usize, gpa: u64, pages: u64 },
    Protect { on: usize, gpa: u64, pages: u64, permissions: u32 },
    Simple { on: usize, operation: Operation },
    Start { on: usize },
    Run { on: usize, fatal: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let permissions = prop_oneof![4 => Just(RW), 3 => Just(RX), 1 => Just(RW | RX), 1 => Just(0)];
    let on = 0..12_usize;
    prop_oneof![
        3 => (on.clone(), any::<bool>()).prop_map(|(on, kind)| Step::Create { on, kind }),
        1 => on.clone().prop_map(|of| Step::Duplicate { of }),
        2 => on.clone().prop_map(|which| Step::Close { which }),
        1 => (0..USER_PAGES as usize).prop_map(|page| Step::GiveUp { page }),
        6 => (on.clone(), 0..GUEST_PAGES, 0..USER_PAGES, 1..10_u64, permissions.clone())
            .prop_map(|(on, gpa, from, pages, permissions)| Step::Map { on, gpa, from, pages, permissions }),
        3 => (on.clone(), 0..GUEST_PAGES, 1..10_u64).prop_map(|(on, gpa, pages)| Step::Unmap { on, gpa, pages }),
        2 => (on.clone(), 0..GUEST_PAGES, 1..6_u64, permissions)
            .prop_map(|(on, gpa, pages, permissions)| Step::Protect { on, gpa, pages, permissions }),
        3 => (on.clone(), prop::sample::select(&[
            Operation::Pause, Operation::Resume, Operation::Resume, Operation::Destroy, Operation::Interrupt,
        ][..])).prop_map(|(on, operation)| Step::Simple { on, operation }),
        2 => on.clone().prop_map(|on| Step::Start { on }),
        3 => (on, any::<bool>()).prop_map(|(on, fatal)| Step::Run { on, fatal }),
    ]
}

/// Expected state of a VM.
#[derive(Default)]
struct VmModel {
    /// Frame of each mapped guest page.
    pages: BTreeMap<u64, Hpa>,
    paused: bool,
    destroyed: bool,
}

/// Expected state of a vCPU.
#[derive(Clone, Copy, Default)]
struct VcpuModel {
    has_state: bool,
    has_ended: bool,
    is_interrupted: bool,
}

/// Handle with its expected object.
#[derive(Clone)]
enum Model {
    Hypervisor,
    Vm(Rc<RefCell<VmModel>>),
    Vcpu(Rc<RefCell<VmModel>>, Rc<Cell<VcpuModel>>),
}

struct World {
    monitor: Monitor,
    handles: Vec<(Handle<FakeKernel>, Model)>,
}

impl World {
    fn pick(&self, index: usize) -> (Handle<FakeKernel>, Model) {
        self.handles[index % self.handles.len()].clone()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Create { on, kind } => self.create(on, if kind { Kind::Vm } else { Kind::Vcpu }),
            Step::Duplicate { of } => self.handles.push(self.pick(of)),
            Step::Close { which } => {
                // The first handle stays, so that there is always one.
                let index = which % self.handles.len();
                if index != 0 {
                    self.handles.swap_remove(index);
                }
            }
            Step::GiveUp { page } => self.monitor.process.give_up(page),
            Step::Map { on, gpa, from, pages, permissions } => self.map(on, gpa, from, pages, permissions),
            Step::Unmap { on, gpa, pages } => {
                let (handle, model) = self.pick(on);
                let answer = self.monitor.change(&handle, Operation::Unmap, gpa * PAGE, pages, 0);
                if let Some(vm) = expect_vm(&model, answer) {
                    match answer {
                        Ok(bytes) => vm.borrow_mut().pages.retain(|page, _| !(gpa..gpa + bytes / PAGE).contains(page)),
                        error => assert_eq!(error, Err(KernelError::OutOfMemory)),
                    }
                }
            }
            Step::Protect { on, gpa, pages, permissions } => {
                let (handle, model) = self.pick(on);
                let answer = self.monitor.change(&handle, Operation::Protect, gpa * PAGE, pages, permissions);
                let Some(vm) = expect_vm(&model, answer) else { return };
                let whole = (gpa..gpa + pages).all(|page| vm.borrow().pages.contains_key(&page));
                let expected = match permissions {
                    0 => Err(KernelError::BadArgument),
                    RW | RX => {
                        if whole {
                            Ok(pages * PAGE)
                        } else {
                            Err(KernelError::NotMapped)
                        }
                    }
                    _ => Err(KernelError::WriteAndExecute),
                };
                assert!(answer == expected || answer == Err(KernelError::OutOfMemory), "{answer:?}, not {expected:?}");
            }
            Step::Simple { on, operation } => self.simple(on, operation),
            Step::Start { on } => {
                let (handle, model) = self.pick(on);
                let answer = self.monitor.start(&handle);
                let Model::Vcpu(vm, vcpu) = model else {
                    return assert_eq!(answer, Err(KernelError::UnknownOperation));
                };
                let expected = match (vm.borrow().destroyed, vcpu.get().has_ended) {
                    (true, _) => Err(KernelError::Destroyed),
                    (_, true) => Err(KernelError::Ended),
                    _ => Ok(0),
                };
                if answer == Ok(0) {
                    vcpu.set(VcpuModel { has_state: true, ..vcpu.get() });
                }
                assert!(answer == expected || answer == Err(KernelError::OutOfMemory), "{answer:?}, not {expected:?}");
            }
            Step::Run { on, fatal } => self.run(on, if fatal { Exit::TripleFault } else { Exit::Halt }),
        }
        self.check();
    }

    fn create(&mut self, on: usize, kind: Kind) {
        let (handle, model) = self.pick(on);
        let vms = self.monitor.scheme.accounts.used(0).1;
        let answer = self.monitor.create(&handle, kind);
        let created = match (&model, kind) {
            (Model::Hypervisor, Kind::Vm) => {
                assert!(
                    answer.is_ok() == (vms < LIMITS.vms) || answer.as_ref().err() == Some(&KernelError::OutOfMemory)
                );
                Model::Vm(Rc::default())
            }
            (Model::Vm(vm), Kind::Vcpu) => {
                assert!(answer.is_err() || !vm.borrow().destroyed);
                Model::Vcpu(vm.clone(), Rc::default())
            }
            _ => return assert_eq!(answer.err(), Some(KernelError::UnknownOperation)),
        };
        self.handles.extend(answer.ok().map(|handle| (handle, created)));
    }

    fn map(&mut self, on: usize, gpa: u64, from: u64, pages: u64, permissions: u32) {
        let (handle, model) = self.pick(on);
        let before = self.monitor.scheme.accounts.used(0).0;
        let answer = self.monitor.map(&handle, gpa * PAGE, from, pages, permissions);
        let Some(vm) = expect_vm(&model, answer) else { return };
        let mut vm = vm.borrow_mut();
        let expected = match permissions {
            0 => return assert_eq!(answer, Err(KernelError::BadArgument)),
            RW | RX => (0..pages).find_map(|i| {
                if vm.pages.contains_key(&(gpa + i)) {
                    Some((i, KernelError::AlreadyMapped))
                } else if before + (i + 1) * PAGE > LIMITS.pinned {
                    Some((i, KernelError::LimitReached))
                } else if self.monitor.process.page(USER + (from + i) * PAGE) == UserPage::Foreign {
                    Some((i, KernelError::NotOwnMemory))
                } else {
                    None
                }
            }),
            _ => return assert_eq!(answer, Err(KernelError::WriteAndExecute)),
        };
        // If frames are scarce, the call may end earlier.
        let reachable = expected.map_or(pages, |(page, _)| page);
        match answer {
            Ok(bytes) => {
                let mapped = bytes / PAGE;
                assert!(mapped > 0 && mapped <= reachable, "{mapped} of {reachable} pages");
                for i in 0..mapped {
                    let UserPage::Own(frame) = self.monitor.process.page(USER + (from + i) * PAGE) else {
                        panic!("not its own")
                    };
                    vm.pages.insert(gpa + i, frame);
                }
            }
            Err(KernelError::OutOfMemory) => {}
            Err(error) => assert_eq!(expected, Some((0, error))),
        }
    }

    fn simple(&mut self, on: usize, operation: Operation) {
        let (handle, model) = self.pick(on);
        let answer = self.monitor.ask(&handle, operation);
        match (model, operation) {
            (Model::Vcpu(_, vcpu), Operation::Interrupt) => {
                assert_eq!(answer, Ok(0));
                vcpu.set(VcpuModel { is_interrupted: true, ..vcpu.get() });
            }
            (Model::Vm(vm), Operation::Pause | Operation::Resume | Operation::Destroy) => {
                let mut vm = vm.borrow_mut();
                assert_eq!(answer, if vm.destroyed { Err(KernelError::Destroyed) } else { Ok(0) });
                vm.paused = operation == Operation::Pause || vm.paused && operation != Operation::Resume;
                if operation == Operation::Destroy {
                    vm.destroyed = true;
                    vm.pages.clear();
                }
            }
            _ => assert_eq!(answer, Err(KernelError::UnknownOperation)),
        }
    }

    fn run(&mut self, on: usize, exit: Exit) {
        let (handle, model) = self.pick(on);
        let Model::Vcpu(vm, vcpu) = model else {
            return assert_eq!(self.monitor.ask(&handle, Operation::Run), Err(KernelError::UnknownOperation));
        };
        let answer = self.monitor.run(&handle, exit);
        let (vm, state) = (vm.borrow(), vcpu.get());
        let expected = match state {
            _ if vm.destroyed => Err(KernelError::Destroyed),
            _ if vm.paused => Err(KernelError::Paused),
            VcpuModel { has_state: false, .. } => Err(KernelError::NoState),
            VcpuModel { has_ended: true, .. } => Ok(Exit::TripleFault),
            VcpuModel { is_interrupted: true, .. } => Ok(Exit::Interrupted),
            _ => Ok(exit),
        };
        assert_eq!(answer, expected);
        let has_ended = state.has_ended || answer == Ok(Exit::TripleFault);
        let is_interrupted = state.is_interrupted && answer != Ok(Exit::Interrupted);
        vcpu.set(VcpuModel { has_ended, is_interrupted, ..state });
    }

    /// Checks that every page is pinned as often as the model expects.
    fn check(&self) {
        let mut vms: Vec<&Rc<RefCell<VmModel>>> = Vec::new();
        for (_, model) in &self.handles {
            if let Model::Vm(vm) | Model::Vcpu(vm, _) = model
                && !vms.iter().any(|known| Rc::ptr_eq(known, vm))
            {
                vms.push(vm);
            }
        }
        let mut expected = BTreeMap::new();
        for frame in vms.iter().flat_map(|vm| vm.borrow().pages.values().copied().collect::<Vec<_>>()) {
            *expected.entry(frame).or_insert(0) += 1;
        }
        let (pinned, count) = self.monitor.scheme.accounts.used(0);
        assert_eq!((pinned, count as usize), (u64::from(expected.values().sum::<u32>()) * PAGE, vms.len()));
        for page in &self.monitor.process.pages {
            if let UserPage::Own(frame) = page {
                *expected.entry(*frame).or_insert(0) += 1;
            }
        }
        for (frame, count) in expected {
            assert_eq!(self.monitor.process.kernel.references_to(frame), count, "{frame}");
        }
    }
}

/// Returns the VM of an operation, or checks the result if it must be an error.
fn expect_vm(model: &Model, answer: Result<u64, KernelError>) -> Option<Rc<RefCell<VmModel>>> {
    match model {
        Model::Vm(vm) if vm.borrow().destroyed => assert_eq!(answer, Err(KernelError::Destroyed)),
        Model::Vm(vm) => return Some(vm.clone()),
        _ => assert_eq!(answer, Err(KernelError::UnknownOperation)),
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_sequence_of_calls_is_answered_and_leaves_nothing(
        steps in prop::collection::vec(step(), 1..80),
        spare in prop_oneof![Just(200_usize), 0..40_usize],
    ) {
        // The frames of the process, and the frames that all VMs share, are always available.
        let kernel = FakeKernel::new(USER_PAGES as usize + 12 + spare);
        let free = kernel.host.free_frames();
        let mut monitor = Monitor::on(&kernel, USER_PAGES as usize);
        let first = (monitor.open(), Model::Hypervisor);
        let mut world = World { monitor, handles: [first].into() };
        for step in &steps {
            world.take(step);
        }
        // The process dies: its handles are closed in any order, and its memory is freed.
        drop(world);
        prop_assert_eq!(kernel.host.free_frames(), free);
        prop_assert!(kernel.references().is_empty());
    }
}
