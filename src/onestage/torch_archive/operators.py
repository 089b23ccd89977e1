"""The operators that a program of torch.export may name: those that exports of ours have.

All compute a tensor or a size from others; none reads a file, runs code, hands out memory that nobody wrote, or looks
at a tensor's bytes in another shape than torch has checked.
"""

from __future__ import annotations

DETECTORS = """
    __and__.Tensor _assert_scalar.default _assert_tensor_metadata.default abs.default add.Tensor add_.Tensor
    any.default arange.default arange.start argsort.stable avg_pool2d.default batch_norm.default bitwise_not.default
    cat.default ceil.default clamp.default contiguous.default conv2d.default detach_.default div.Tensor exp.default
    expand.default flatten.using_ints flip.default floor.default full_like.default gather.default ge.Tensor
    group_norm.default gt.Scalar gt.Tensor index.Tensor index_add.default index_put.default item.default
    lift_fresh_copy.default lt.Scalar lt.Tensor masked_fill.Scalar matmul.default max.default max.dim
    max_pool2d.default maximum.default mean.dim meshgrid.indexing min.default minimum.default mul.Tensor neg.default
    new_full.default new_zeros.default nonzero.default ones_like.default permute.default pow.Tensor_Scalar
    prod.dim_int reciprocal.default relu.default relu_.default repeat.default reshape.default round.default
    rsqrt.default rsub.Scalar scalar_tensor.default scatter.value searchsorted.Tensor select.int sigmoid.default
    silu_.default slice.Tensor softmax.int sort.default split_with_sizes.default square.default stack.default
    sub.Tensor sum.dim_IntList sym_size.int t.default to.dtype to.dtype_layout topk.default unbind.int
    unsqueeze.default upsample_nearest2d.vec view.default where.ScalarOther where.self zeros_like.default
"""
BACKBONES = """
    addcmul.default avg_pool1d.default chunk.default clamp_min.default conv1d.default cos.default cumsum.default
    div.Tensor_mode dropout.default expand_as.default gelu.default hardsigmoid.default hardswish_.default
    hardtanh.default hardtanh_.default layer_norm.default leaky_relu.default leaky_relu_.default
    linalg_vector_norm.default linear.default pad.default pow.Scalar reshape_as.default
    scaled_dot_product_attention.default silu.default sin.default split.Tensor to.device transpose.int zeros.default
"""  # of 73 of timm's that were tried, beside those above
SIZES = """
    _operator.add _operator.eq _operator.floordiv _operator.ge _operator.le _operator.mul _operator.or_ _operator.sub
    torch.sym_min
"""
OTHERS = "torch.ops.higher_order.while_loop torch.ops.torchvision.nms.default"

OPERATORS = frozenset([f"torch.ops.aten.{name}" for name in (DETECTORS + BACKBONES).split()] + (SIZES + OTHERS).split())
