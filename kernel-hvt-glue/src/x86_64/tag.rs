//! Tags of cached translations: AMD's address space identifiers (ASID, APM volume 2, 15.16) and
//! Intel's virtual-processor identifiers (VPID, SDM volume 3, 29.1).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::Binding;

/// Next number of a [`Tags`]. The number distinguishes the tags of a CPU before and after it was
/// disabled.
static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(0);

/// Tags of one CPU. Not every CPU can flush the translations of one guest. Instead, the guest gets
/// a tag that was not used since the last flush of all tags.
#[derive(Clone, Debug)]
pub(crate) struct Tags {
    instance: u64,
    count: u32,
    next: u32,
    generation: u64,
    /// The flush at the start of the current generation is still pending.
    flush_due: bool,
}

/// Tag, with the generation in which it was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) number: u32,
    generation: u64,
}

impl Tags {
    /// Creates tags 1 to `count - 1`; 0 is the host's. A flush is pending at first, because other
    /// software may have used the CPU before.
    pub(crate) fn new(count: u32) -> Self {
        let instance = NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed);
        Self { instance, count, next: 1, generation: 0, flush_due: true }
    }

    /// Allocates a tag. If the second value is `true`, the CPU must flush the translations of all
    /// tags before the tag is used.
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

    /// Records that the CPU has flushed the translations of all tags.
    pub(crate) const fn flushed(&mut self) {
        self.flush_due = false;
    }

    /// Returns `true` if the tag has not been reallocated.
    const fn is_current(&self, tag: Tag) -> bool {
        tag.generation == self.generation
    }
}

/// CPU on which a guest's translations were last set up, with tag and epoch.
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

    /// Returns `true` if the guest ran last on this CPU, and the CPU has not been disabled since.
    pub(crate) const fn is_on(&self, tags: &Tags) -> bool {
        self.tags == tags.instance
    }

    /// Returns `true` if the translations cached under this tag belong to this guest and are not
    /// stale.
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
            // Tags under which the CPU may have cached translations.
            let mut used: BTreeSet<u32> = (1..count).collect();
            for enters in guests {
                let (tag, flush) = tags.fresh();
                prop_assert!((1..count).contains(&tag.number));
                prop_assert!(tags.is_current(tag));
                // A guest that fails right before its entry has flushed nothing.
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
