"""What happens to an ONNX graph between torch's exporter and the file: description, Meta's resizing, int8, saving.

Source: ONNX operators 18, onnxruntime's dynamic quantisation; Meta's resizing is `SamOnnxModel.mask_postprocessing`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sam_hf.hub.exported_parts import Part

# Low-resolution logits -> the padded square -> without its padding -> the picture.
RESIZING = """
<ir_version: 8, opset_import: ["" : 18]>
resizing (float[P,M,a,b] low_res_masks, float[2] orig_im_size) => (float[P,M,H,W] masks)
<float side = {{{side}.0}}, float half = {{0.5}}, int64[2] square = {{{side}, {side}}}, int64[2] from = {{0, 0}},
 int64[2] axes = {{2, 3}}>
{{
    resize_longest = ReduceMax<keepdims = 0>(orig_im_size)
    resize_scale = Div(side, resize_longest)
    resize_scaled = Mul(orig_im_size, resize_scale)
    resize_shifted = Add(resize_scaled, half)
    resize_rounded = Floor(resize_shifted)
    resize_valid = Cast<to = 7>(resize_rounded)
    resize_original = Cast<to = 7>(orig_im_size)
    resize_lead = Shape<start = 0, end = 2>(low_res_masks)
    resize_to_square = Concat<axis = 0>(resize_lead, square)
    resize_to_original = Concat<axis = 0>(resize_lead, resize_original)
    resize_padded = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(
        low_res_masks, , , resize_to_square)
    resize_cropped = Slice(resize_padded, from, resize_valid, axes)
    masks = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(
        resize_cropped, , , resize_to_original)
}}
"""


def tidy(graph: Any, part: Part, dtype: str) -> None:
    """Describe a graph and its ends; take out where in whose source code each node comes from.

    Args:
        graph: onnx_ir's model.
        part: What it was made of.
        dtype: float32, float16 or int8.
    """
    graph.graph.name = part.name
    graph.producer_name, graph.producer_version = "sam_hf", None
    graph.metadata_props.clear()
    graph.metadata_props.update({"part": part.name, "dtype": dtype, "image_size": str(part.image_size)})
    for function in (graph.graph, *graph.functions.values()):
        function.metadata_props.clear()
        for node in function:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in graph.graph.inputs:
        fixed = [axis for axis in part.dynamic.get(value.name, ()) if isinstance(value.shape[axis], int)]
        if fixed:
            raise RuntimeError(f"the exporter has fixed axis {fixed[0]} of {value.name}, which may have any length")
    for values, texts in ((graph.graph.inputs, part.inputs), (graph.graph.outputs, part.outputs)):
        for value in values:
            value.metadata_props.clear()
            value.doc_string = texts[value.name]


def fold_products_of_zeros(graph: Any) -> None:
    """Put its bias in place of a linear layer of zeros, in onnx_ir's model.

    Such is what windows are filled up with (`SamVisionAttention`). The layer shares its weights with that of the real
    tokens, and onnxruntime's quantisation turns shared weights around under the other's feet.
    """
    import numpy as np

    for node in list(graph.graph):
        if node.op_type != "Gemm" or not _is_zero(node.inputs[0]) or node.inputs[1].const_value is None:
            continue
        of_tokens = node.inputs[1]
        weight = of_tokens.const_value
        transposed = node.attributes.get_int("transB", 0) == 1
        bias = np.zeros((1, weight.shape[0 if transposed else 1]), weight.dtype.numpy())
        if len(node.inputs) == 3:
            bias = bias + node.inputs[2].const_value.numpy()
        _put(graph, node, bias)
        for other in [use.node for use in of_tokens.uses() if use.node.op_type == "Transpose"]:
            _put(graph, other, np.ascontiguousarray(weight.numpy().T))  # the exporter does so where nothing is shared
        if not of_tokens.uses():
            del graph.graph.initializers[of_tokens.name]


def _put(graph: Any, node: Any, constant: Any) -> None:
    """Put a constant in place of what a node gives."""
    import onnx_ir

    (output,) = node.outputs
    value = onnx_ir.Value(name=f"{output.name}_folded", const_value=onnx_ir.tensor(constant))
    value.shape, value.type = value.const_value.shape, onnx_ir.TensorType(value.const_value.dtype)
    graph.graph.register_initializer(value)
    onnx_ir.convenience.replace_all_uses_with(output, value)
    graph.graph.remove(node, safe=True)


def _is_zero(value: Any) -> bool:
    """Whether an onnx_ir value is one row of zeros for certain."""
    if value.const_value is not None:
        return value.const_value.shape[0] == 1 and not value.const_value.numpy().any()
    producer = value.producer()
    if producer is None or value.shape is None or value.shape[0] != 1:
        return False
    if producer.op_type == "ConstantOfShape":
        attribute = producer.attributes.get("value")  # absent: zero
        return attribute is None or not attribute.value.numpy().any()
    spread = producer.inputs[0].const_value if producer.op_type == "Expand" else None
    return spread is not None and not spread.numpy().any()


def append_resizing(graph: Any, part: Part) -> Any:
    """Meta's decoder up to masks in the picture's size: the output `masks` comes first, as Meta's front end reads it.

    Args:
        graph: onnx_ir's model with the output `low_res_masks`.
        part: What it was made of.

    Returns:
        onnx_ir's model.
    """
    import onnx
    import onnx_ir

    model = onnx_ir.to_proto(graph)
    resizing = onnx.parser.parse_model(RESIZING.format(side=part.image_size)).graph
    model.graph.node.extend(resizing.node)
    model.graph.initializer.extend(resizing.initializer)
    model.graph.input.append(resizing.input[1])
    model.graph.output.insert(0, resizing.output[0])
    model.graph.input[-1].doc_string, model.graph.output[0].doc_string = (
        part.inputs["orig_im_size"],
        part.outputs["masks"],
    )
    for axis, size in enumerate(model.graph.output[2].type.tensor_type.shape.dim[:2]):  # prompts and masks, by name
        model.graph.output[0].type.tensor_type.shape.dim[axis].CopyFrom(size)
    return onnx_ir.from_proto(model)


def store_in_half(graph: Any) -> None:
    """Keep an onnx_ir model's float32 weights in float16, and bring each back to float32 where it is used.

    Runtimes do that once, at loading. Small ones stay: they would take more in nodes than they save.
    """
    import numpy as np
    import onnx_ir

    for name, value in list(graph.graph.initializers.items()):
        weight = value.const_value
        if weight.dtype != onnx_ir.DataType.FLOAT or weight.size < 1024:
            continue
        half = onnx_ir.Value(name=f"{name}_half", const_value=onnx_ir.tensor(weight.numpy().astype(np.float16)))
        back = onnx_ir.node("Cast", [half], {"to": onnx_ir.DataType.FLOAT})
        onnx_ir.convenience.replace_all_uses_with(value, back.outputs[0])
        del graph.graph.initializers[name]
        back.outputs[0].name, half.type, half.shape = name, onnx_ir.TensorType(onnx_ir.DataType.FLOAT16), value.shape
        graph.graph.register_initializer(half)
        graph.graph.insert_before(graph.graph[0], back)


def save(graph: Any, path: Path, largest: int) -> list[Path]:
    """Write onnx_ir's model as one file, or with the weights beside it where it would exceed `largest` bytes.

    Returns:
        The files, the one that refers to the other last.
    """
    import onnx
    import onnx_ir

    weights = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value)
    beside = path.with_name(f"{path.name}_data")  # transformers.js looks for it under this name
    external = weights > largest
    onnx_ir.save(graph, path, external_data=beside.name if external else None)
    onnx.checker.check_model(str(path))
    return [beside, path] if external else [path]


def quantize(source: Path, path: Path, largest: int, gather: bool, reduce_range: bool = True) -> list[Path]:
    """Weights of products to int8, one scale per column.

    Convolutions stay: they hold little, and browsers have no integer ones.

    Args:
        source: The file in float32.
        path: Where to.
        largest: See `save`.
        gather: Also tables that rows are taken from, such as a text tower's tokens.
        reduce_range: Use 7 of the 8 bits. Processors of x86 without VNNI add pairs of products in 16 bits, and clip:
            with 8 bits such a sum may overflow, with 7 it always fits (255 * 64 * 2 < 2**15), so that one file gives
            the same masks everywhere. What it costs and saves is in docs/export.md.

    Returns:
        As `save`.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Without the shapes in between: onnxruntime transposes weights and leaves the old shapes standing.
    model = onnx.load(source, load_external_data=False)
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, {one.key: one.value for one in model.metadata_props} | {"dtype": "int8"})
    shapeless = source.with_name(f"shapeless_{source.name}")
    onnx.save(model, shapeless)
    shapes = {weight.name: weight.dims for weight in model.graph.initializer}
    products = [(node.name, node.input[1]) for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    stay = [name for name, weight in products if _stays(weight, shapes.get(weight, ()))]
    external = source.with_name(f"{source.name}_data").exists()
    quantize_dynamic(
        shapeless,
        path,
        op_types_to_quantize=["MatMul", "Gather"] if gather else ["MatMul"],
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        use_external_data_format=external,
        nodes_to_exclude=[*stay, *(f"{name}_MatMul" for name in stay)],  # what a Gemm becomes beforehand
        extra_options={"MatMulConstBOnly": True},
    )
    shapeless.unlink()
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])  # refuses what was not put together well
    written = path.with_name(f"{path.name}.data")
    if not external or not written.exists():
        return [path]
    model = onnx.load(path)  # a quarter of what it was, perhaps small enough for one file
    written.unlink()
    beside = path.with_name(f"{path.name}_data")
    if model.ByteSize() <= largest:
        onnx.save(model, path)
        return [path]
    onnx.save(model, path, save_as_external_data=True, location=beside.name)
    return [beside, path]


def _stays(weight: str, shape: Sequence[int]) -> bool:
    """Whether a product keeps its float weights.

    Of several matrices at once runtimes have no scale per column; two rows are the Fourier frequencies of a position;
    and behind upscaling, eight bits of an activation are too few for the edge of a mask (docs/export.md).
    """
    return len(shape) != 2 or min(shape) < 4 or "upscale" in weight
