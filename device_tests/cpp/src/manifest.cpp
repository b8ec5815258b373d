#include "manifest.hpp"

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>

#include <nlohmann/json.hpp>

#include "sha256.hpp"

namespace edgeqkv {

using nlohmann::json;

NLOHMANN_JSON_SERIALIZE_ENUM(Dtype, {{static_cast<Dtype>(-1), nullptr},
                                     {Dtype::fp32, "fp32"},
                                     {Dtype::fp16, "fp16"},
                                     {Dtype::int8, "int8"},
                                     {Dtype::uint8, "uint8"},
                                     {Dtype::int32, "int32"},
                                     {Dtype::int64, "int64"},
                                     {Dtype::boolean, "bool"}})
NLOHMANN_JSON_SERIALIZE_ENUM(Role, {{static_cast<Role>(-1), nullptr},
                                    {Role::tokens, "tokens"},
                                    {Role::positions, "positions"},
                                    {Role::start, "start"},
                                    {Role::length, "length"},
                                    {Role::logit_index, "logit_index"},
                                    {Role::mask, "mask"},
                                    {Role::pixels, "pixels"},
                                    {Role::features, "features"},
                                    {Role::image, "image"},
                                    {Role::logits, "logits"},
                                    {Role::state, "state"}})
NLOHMANN_JSON_SERIALIZE_ENUM(StateUpdate, {{static_cast<StateUpdate>(-1), nullptr},
                                           {StateUpdate::in_place, "in_place"},
                                           {StateUpdate::rows, "rows"},
                                           {StateUpdate::runtime, "runtime"}})

namespace {

constexpr int kFormat = 2;  // of the manifest; 1 had no roles

/// One of an enumeration's values, by its name.
template <typename Enumeration>
Enumeration known(const json& name) {
  const auto value = name.get<Enumeration>();
  if (value == static_cast<Enumeration>(-1)) throw Error("it has " + name.dump() + ", which this sample does not know");
  return value;
}

template <typename Value>
std::optional<Value> optional(const json& card, const char* name) {
  const auto found = card.find(name);
  if (found == card.end() || found->is_null()) return std::nullopt;
  return found->get<Value>();
}

template <typename Value, typename Make>
std::vector<Value> list(const json& values, Make make) {
  std::vector<Value> made;
  for (const json& value : values) made.push_back(make(value));
  return made;
}

TensorSpec tensor_spec(const json& card) {
  return {
      .name = card.at("name"),
      .dtype = known<Dtype>(card.at("dtype")),
      .shape = list<Size>(card.at("shape"), [](const json& size) -> Size {
        if (size.is_string()) return size.get<std::string>();
        return size.get<std::int64_t>();
      }),
      .role = known<Role>(card.at("role")),
  };
}

Graph graph(const json& card) {
  return {
      .name = card.at("name"),
      .file = card.at("file"),
      .tokens = card.at("tokens"),
      .fixed = card.at("fixed"),
      .window = optional<std::int64_t>(card, "window"),
      .inputs = list<TensorSpec>(card.at("inputs"), tensor_spec),
      .outputs = list<TensorSpec>(card.at("outputs"), tensor_spec),
  };
}

StateTensor state_tensor(const json& card) {
  return {
      .name = card.at("name"),
      .dtype = known<Dtype>(card.at("dtype")),
      .shape = card.at("shape").get<Shape>(),
      .update = known<StateUpdate>(card.at("update")),
      .input = optional<std::string>(card, "input"),
      .output = optional<std::string>(card, "output"),
      .aliases = card.at("aliases").get<std::vector<std::string>>(),
  };
}

std::string content_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream content;
  content << stream.rdbuf();
  return content.str();
}

}  // namespace

std::size_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::int64: return 8;
    case Dtype::fp32:
    case Dtype::int32: return 4;
    case Dtype::fp16: return 2;
    case Dtype::int8:
    case Dtype::uint8:
    case Dtype::boolean: return 1;
  }
  throw Error("a type of number that this sample does not know");
}

std::size_t count(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

const TensorSpec& Graph::logits() const {
  const auto found = std::ranges::find(outputs, Role::logits, &TensorSpec::role);
  if (found == outputs.end()) throw Error("the graph '" + name + "' gives no logits. Export the model again");
  return *found;
}

bool Graph::has(Role role) const { return std::ranges::find(inputs, role, &TensorSpec::role) != inputs.end(); }

std::size_t StateTensor::bytes() const { return count(shape) * size_of(dtype); }

Artifact Artifact::from(const json& card) {
  return {
      .target = card.at("target"),
      .form = card.at("form"),
      .weights = card.at("weights"),
      .context = card.at("context"),
      .chunk = card.at("chunk"),
      .vocabulary = card.at("vocab_size"),
      .axes = card.at("axes").get<std::vector<std::string>>(),
      .graphs = list<Graph>(card.at("graphs"), graph),
      .state_tensors = list<StateTensor>(card.at("state_tensors"), state_tensor),
  };
}

Bundle::Bundle(std::filesystem::path place) : folder(std::move(place)) {
  const auto file = folder / "manifest.json";
  if (!std::filesystem::is_regular_file(file)) {
    throw Error("there is no bundle in " + folder.string() + ": it has no manifest.json");
  }
  sha256 = sha256_of(file);
  try {
    const json manifest = json::parse(content_of(file));
    const json& format = manifest.at("format");
    if (format != kFormat) {
      const std::string help = format == 1 ? "Export the model again" : "Update this program, or export the model again";
      throw Error(file.string() + " is of format " + format.dump() + ", and this program reads format " +
                  std::to_string(kFormat) + ". " + help);
    }
    const json& model = manifest.at("model");
    if (model.at("kind") != "decoder") {
      throw Error(folder.string() + " holds an " + model.at("kind").get<std::string>() + ", which continues no text");
    }
    variant = model.at("variant");
    for (const auto& [name, card] : manifest.at("targets").items()) {
      targets.emplace(name, Artifact::from(card.at("artifact")));
    }
    if (const json& card = manifest.at("tokenizer"); !card.is_null()) {
      eos_token_ids = card.at("eos_token_ids").get<std::set<std::int64_t>>();
    }
    for (const auto& [name, card] : manifest.at("files").items()) {
      files_.emplace(name, FileCard{.bytes = card.at("bytes"), .sha256 = card.at("sha256")});
    }
  } catch (const json::exception& error) {  // no JSON, or a field is missing, or is of another type
    throw Error(file.string() + " is damaged: " + error.what() + ". Export the model again");
  }
}

void Bundle::check() const {
  for (const auto& [name, card] : files_) {
    const auto file = folder / name;
    if (!std::filesystem::is_regular_file(file)) {
      throw Error("the bundle is incomplete: '" + name + "' is missing. Copy it again");
    }
    if (std::filesystem::file_size(file) != card.bytes || sha256_of(file) != card.sha256) {
      throw Error("'" + name + "' is not the file that was exported. Copy the bundle again");
    }
  }
}

const Artifact& Bundle::target(std::string_view name) const {
  const auto found = name.empty() ? targets.begin() : targets.find(name);
  if (found != targets.end()) return found->second;
  std::string held;
  for (const auto& [each, artifact] : targets) held += (held.empty() ? "" : ", ") + each;
  throw Error(folder.string() + " holds " + held + ", not '" + std::string(name) + "'");
}

}  // namespace edgeqkv
