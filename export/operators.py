"""The ONNX operators that TensorRT's parser takes, so that a graph that no device could build is refused on the host.

Source: the support matrix of onnx-tensorrt, docs/operators.md at release 10.1-GA (commit 96e7811), the last public one
before TensorRT 10.3, which JetPack 6.1 has. It covers the opsets 9 to 20.
https://github.com/onnx/onnx-tensorrt/blob/96e781103cfc4adf4a6bb557e94bac8e693f6f4c/docs/operators.md

Left out of what it lists, since none of it belongs in a graph of ours: control flow (`If`, `Loop`, `Scan`), which makes
a graph's work depend on the frame; random numbers; recurrence; and the operators whose output has as many entries as the
values of its input say (`NonZero`, `NonMaxSuppression`).
"""

from __future__ import annotations

MIN_OPSET, MAX_OPSET = 19, 20
"""From 19 on `QuantizeLinear` takes half precision; beyond 20 TensorRT 10.3 does not read."""

_LISTED = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LRN LpNormalization LpPool
    MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round ScatterElements ScatterND Selu Shape Shrink Sigmoid
    Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile
    TopK Transpose Trilu Unsqueeze Where Xor
"""

SUPPORTED = frozenset(_LISTED.split())
