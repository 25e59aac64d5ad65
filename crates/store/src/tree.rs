//! A volume's layer tree.

use yuntai_proto::LayerId;

/// The tree, with jump pointers: is-ancestor is O(log depth), also 100,000 snapshots deep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTree {
    parents: Vec<LayerId>,
    depth: Vec<u32>,
    jump: Vec<LayerId>,
}

impl LayerTree {
    /// Most layers of a volume.
    pub const LAYERS_MAX: usize = 1 << 20;

    /// From the table of parents: `None` unless layer 0 is its own parent and every other parent's number is below its
    /// child's (layers are numbered in the order they are made).
    #[must_use]
    pub fn new(parents: &[LayerId]) -> Option<Self> {
        if parents.first() != Some(&0) || parents.len() > Self::LAYERS_MAX {
            return None;
        }
        let mut this = Self { parents: parents.to_vec(), depth: vec![0], jump: vec![0] };
        for (layer, &parent) in parents.iter().enumerate().skip(1) {
            let above = parent as usize;
            if above >= layer {
                return None;
            }
            let (depth, jump) = (&this.depth, &this.jump);
            let (near, far) = (jump[above], jump[jump[above] as usize]);
            // The skew-binary rule: two jumps of equal length merge into one.
            let same = depth[above] - depth[near as usize] == depth[near as usize] - depth[far as usize];
            this.jump.push(if same { far } else { parent });
            this.depth.push(this.depth[above] + 1);
        }
        Some(this)
    }

    /// Number of layers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// Never: layer 0 is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Does this tree begin with all of `older`?
    #[must_use]
    pub fn grows_from(&self, older: &Self) -> bool {
        self.parents.starts_with(&older.parents)
    }

    /// Is `ancestor` on the way from `layer` (itself included) to the root? Both must be in the tree.
    #[must_use]
    pub fn is_ancestor(&self, ancestor: LayerId, layer: LayerId) -> bool {
        let wanted = self.depth[ancestor as usize];
        let mut at = layer;
        while self.depth[at as usize] > wanted {
            let jump = self.jump[at as usize];
            at = if self.depth[jump as usize] >= wanted { jump } else { self.parents[at as usize] };
        }
        at == ancestor
    }
}

#[cfg(test)]
mod tests;
