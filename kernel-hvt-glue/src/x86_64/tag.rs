//! Tags of cached translations: AMD's address space identifiers (ASID, APM volume 2, 15.16), Intel's virtual-processor
//! identifiers (VPID, SDM volume 3, 29.1).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::Binding;

/// Numbers for [`Tags`], so that those of a CPU that was disabled and enabled again are told apart.
static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(0);

/// The tags of one CPU. Instead of flushing one guest's translations, which not every CPU can do, the guest gets a tag
/// that was not used since the last flush of them all.
#[derive(Clone, Debug)]
pub(crate) struct Tags {
    instance: u64,
    count: u32,
    next: u32,
    generation: u64,
    /// The flush that the current generation began with has not been done.
    flush_due: bool,
}

/// A tag, and when it was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) number: u32,
    generation: u64,
}

impl Tags {
    /// Tags 1 to `count - 1`; 0 is the host's. A flush is due first, since others may have used the CPU before.
    pub(crate) fn new(count: u32) -> Self {
        let instance = NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed);
        Self { instance, count, next: 1, generation: 0, flush_due: true }
    }

    /// A tag without translations, once the CPU has flushed those of all tags if the second value says so.
    pub(crate) const fn fresh(&mut self) -> (Tag, bool) {
        if self.next >= self.count {
            self.next = 1;
            self.generation += 1;
            self.flush_due = true;
        }
        let tag = Tag { number: self.next, generation: self.generation };
        self.next += 1;
        (tag, self.flush_due)
    }

    /// The CPU has flushed the translations of all tags.
    pub(crate) const fn flushed(&mut self) {
        self.flush_due = false;
    }

    /// Whether the tag still belongs to who got it.
    const fn is_current(&self, tag: Tag) -> bool {
        tag.generation == self.generation
    }
}

/// Where and when a CPU last got to know a guest's translations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Residence {
    tags: u64,
    tag: Tag,
    epoch: u64,
}

impl Residence {
    pub(crate) const fn new(binding: &Binding, tags: &Tags, tag: Tag) -> Self {
        Self { tags: tags.instance, tag, epoch: binding.epoch }
    }

    /// Whether this was the last CPU, and it has not been disabled since.
    pub(crate) const fn is_on(&self, tags: &Tags) -> bool {
        self.tags == tags.instance
    }

    /// Whether what the CPU knows under this tag is this guest's and still true.
    pub(crate) const fn is_current(&self, binding: &Binding, tags: &Tags) -> bool {
        self.is_on(tags) && self.epoch == binding.epoch && tags.is_current(self.tag)
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::arch::FpuOwner;

    proptest! {
        #[test]
        fn no_two_guests_share_a_tag_between_flushes(
            count in 2..40_u32,
            guests in prop::collection::vec(any::<bool>(), 1..200),
        ) {
            let mut tags = Tags::new(count);
            // Tags under which the CPU may have translations.
            let mut used: BTreeSet<u32> = (1..count).collect();
            for enters in guests {
                let (tag, flush) = tags.fresh();
                prop_assert!((1..count).contains(&tag.number));
                prop_assert!(tags.is_current(tag));
                // A guest that is refused at the last moment has flushed nothing.
                if enters {
                    if flush {
                        used.clear();
                        tags.flushed();
                    }
                    prop_assert!(used.insert(tag.number));
                }
            }
        }
    }

    #[test]
    fn a_cpu_that_was_disabled_is_another_one() {
        let binding = Binding { cpu: 0, epoch: 5, fpu: FpuOwner::Kernel };
        let (mut tags, again) = (Tags::new(3), Tags::new(3));
        let (tag, _) = tags.fresh();
        let residence = Residence::new(&binding, &tags, tag);
        assert!(residence.is_current(&binding, &tags));
        assert!(!residence.is_current(&binding, &again));
        assert!(!residence.is_current(&Binding { epoch: 6, ..binding }, &tags));
    }

    #[test]
    fn a_new_generation_takes_all_tags_back() {
        let mut tags = Tags::new(3);
        let ((first, _), (second, _)) = (tags.fresh(), tags.fresh());
        tags.flushed();
        assert!(tags.is_current(first) && tags.is_current(second));
        let (third, flush) = tags.fresh();
        assert!(flush && third.number == first.number);
        assert!(!tags.is_current(first) && !tags.is_current(second));
    }
}
