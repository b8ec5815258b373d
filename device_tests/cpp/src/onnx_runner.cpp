#include "onnx_runner.hpp"

namespace edgeqkv {
namespace {

ONNXTensorElementDataType element(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case Dtype::fp16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case Dtype::int8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case Dtype::uint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case Dtype::int32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case Dtype::int64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case Dtype::boolean: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
  }
  throw Error("a type of number that this program does not know");
}

}  // namespace

OnnxRunner::OnnxRunner(std::filesystem::path folder, const Artifact& artifact, int threads)
    : folder_(std::move(folder)),
      artifact_(artifact),
      environment_(ORT_LOGGING_LEVEL_ERROR, "edgeqkv"),
      memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
  options_.SetIntraOpNumThreads(threads);
  if (artifact.weights.starts_with("fp")) {
    // Packing would copy every float weight out of the mapped file; quantized ones need it for their kernels.
    options_.AddConfigEntry("session.disable_prepacking", "1");
  }
  for (const StateTensor& tensor : artifact.state_tensors) {
    if (tensor.update == StateUpdate::runtime) throw Error("the state of '" + tensor.name + "' is not held in ONNX");
    state_[tensor.name].resize(tensor.bytes());
  }
}

std::vector<float> OnnxRunner::run(const Call& call) {
  Opened& opened = this->opened(call.graph);
  std::vector<std::vector<std::byte>> given;  // has to live until the call has returned
  for (const Input& input : call.inputs()) {
    given.push_back(input.bytes());
    opened.binding.BindInput(input.spec->name.c_str(), value(given.back(), input.spec->dtype, input.shape));
  }
  const TensorSpec& spec = call.graph.logits();
  if (spec.dtype != Dtype::fp32) throw Error("this program knows no logits of another type than fp32");
  const Shape shape = call.shape(spec);
  std::vector<float> logits(count(shape));
  opened.binding.BindOutput(spec.name.c_str(), value(std::as_writable_bytes(std::span(logits)), spec.dtype, shape));
  std::map<const StateTensor*, std::vector<std::byte>> rows;
  for (const StateTensor& tensor : artifact_.state_tensors) {
    if (tensor.update != StateUpdate::rows) continue;
    Shape made = tensor.shape;
    for (std::size_t axis = 0; axis < made.size(); ++axis) {
      if (artifact_.axes[axis] == "context") made[axis] = call.tokens();
    }
    auto& memory = rows[&tensor];
    memory.resize(count(made) * size_of(tensor.dtype));
    opened.binding.BindOutput(tensor.output->c_str(), value(memory, tensor.dtype, made));
  }
  opened.session.Run(Ort::RunOptions{nullptr}, opened.binding);
  for (const auto& [tensor, memory] : rows) write_rows(artifact_, *tensor, memory, state_[tensor->name], call);
  return logits;
}

void OnnxRunner::close(const Graph& graph) { opened_.erase(graph.name); }

OnnxRunner::Opened& OnnxRunner::opened(const Graph& graph) {
  if (const auto found = opened_.find(graph.name); found != opened_.end()) return found->second;
  Ort::Session session(environment_, (folder_ / graph.file).c_str(), options_);
  Ort::IoBinding binding(session);
  for (const StateTensor& tensor : artifact_.state_tensors) {
    const Ort::Value state = value(state_[tensor.name], tensor.dtype, tensor.shape);
    binding.BindInput(tensor.input->c_str(), state);
    if (tensor.update != StateUpdate::in_place) continue;
    binding.BindOutput(tensor.output->c_str(), state);
    for (const std::string& alias : tensor.aliases) binding.BindOutput(alias.c_str(), state);
  }
  return opened_.emplace(graph.name, Opened{std::move(session), std::move(binding)}).first->second;
}

Ort::Value OnnxRunner::value(std::span<std::byte> memory, Dtype dtype, const Shape& shape) const {
  return Ort::Value::CreateTensor(memory_, memory.data(), memory.size(), shape.data(), shape.size(), element(dtype));
}

}  // namespace edgeqkv
