// Holds the sample's own code against device_tests/golden.json, which edgeqkv computed.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>

#include <nlohmann/json.hpp>

#include "generation.hpp"
#include "manifest.hpp"

namespace {

using namespace edgeqkv;
using nlohmann::json;

int failures = 0;

template <typename Value>
void expect_equal(const Value& found, const Value& wanted, const std::string& what) {
  if (found == wanted) return;
  ++failures;
  std::cout << "FAILED " << what << ": " << json(found).dump().substr(0, 200) << ", not "
            << json(wanted).dump().substr(0, 200) << '\n';
}

void expect_error(const std::function<void()>& act, const std::string& words) {
  try {
    act();
  } catch (const Error& error) {
    if (std::string(error.what()).find(words) != std::string::npos) return;
    ++failures;
    std::cout << "FAILED: '" << error.what() << "' does not say '" << words << "'\n";
    return;
  }
  ++failures;
  std::cout << "FAILED: nothing said '" << words << "'\n";
}

/// The logits of a model that every language can compute exactly: see device_tests/golden.py.
std::vector<float> fake_logits(std::int64_t vocabulary, std::int64_t token, std::int64_t position) {
  std::vector<float> logits;
  for (std::int64_t id = 0; id < vocabulary; ++id) {
    logits.push_back(static_cast<float>((token * 7 + id * (13 + position) + position * 3) % 23));
  }
  return logits;
}

/// That model as what runs an artifact. It writes down its calls.
class FakeRunner final : public Runner {
 public:
  FakeRunner(const Artifact& artifact, json& calls, json& places) : artifact_(artifact), calls_(calls), places_(places) {
    for (const StateTensor& tensor : artifact.state_tensors) {
      if (tensor.update == StateUpdate::rows) state_[tensor.name].resize(count(tensor.shape));
    }
  }

  std::vector<float> run(const Call& call) override {
    json inputs = json::object();
    for (const Input& input : call.inputs()) {
      inputs[input.spec->name] = {{"shape", input.shape}, {"values", input.values}};
    }
    for (const StateTensor& tensor : artifact_.state_tensors) {
      if (tensor.update == StateUpdate::rows) {
        inputs[*tensor.input] = {{"shape", tensor.shape}, {"values", state_[tensor.name]}};
      }
    }
    calls_.push_back({{"graph", call.graph.name}, {"inputs", inputs}});
    places_.push_back({call.ids.size(), call.position});
    for (const StateTensor& tensor : artifact_.state_tensors) {
      if (tensor.update == StateUpdate::rows) write(tensor, call);
    }
    std::vector<float> logits;
    const bool all = std::ranges::any_of(
        call.graph.logits().shape, [](const Size& size) { return std::holds_alternative<std::string>(size); });
    const std::size_t first = all ? 0 : call.ids.size() - 1;
    for (std::size_t row = first; row < call.ids.size(); ++row) {
      const auto one = fake_logits(artifact_.vocabulary, call.ids[row], call.position + static_cast<std::int64_t>(row));
      logits.insert(logits.end(), one.begin(), one.end());
    }
    return logits;
  }

 private:
  /// A call's new rows: whole numbers that say when they were made, and where they belong.
  void write(const StateTensor& tensor, const Call& call) {
    Shape shape = tensor.shape;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      if (artifact_.axes[axis] == "context") shape[axis] = call.tokens();
    }
    std::vector<float> rows;
    for (std::size_t i = 0; i < count(shape); ++i) rows.push_back(static_cast<float>(call.position * 1000 + i));
    write_rows(artifact_, tensor, std::as_bytes(std::span(rows)), std::as_writable_bytes(std::span(state_[tensor.name])),
               call);
  }

  const Artifact& artifact_;
  json& calls_;
  json& places_;
  std::map<std::string, std::vector<float>> state_;
};

void sampling(const json& cases) {
  for (const json& each : cases) {
    const Sampling settings{.temperature = each.at("temperature"), .top_k = each.at("top_k"), .top_p = each.at("top_p")};
    const auto logits = each.at("logits").get<std::vector<float>>();
    expect_equal<std::int64_t>(settings.pick(logits, each.at("uniform")), each.at("token"), "the sampled token");
  }
}

void generation(const json& golden) {
  const Artifact artifact = Artifact::from(golden.at("artifacts").at("onnx"));
  const std::map<StopReason, std::string> names{{StopReason::end_of_text, "end_of_text"},
                                                {StopReason::max_tokens, "max_tokens"},
                                                {StopReason::context_full, "context_full"}};
  for (const json& each : golden.at("generation")) {
    json calls = json::array(), places = json::array();
    Session session(std::make_unique<FakeRunner>(artifact, calls, places), artifact);
    Options options;
    if (!each.at("max_tokens").is_null()) options.max_tokens = each.at("max_tokens");
    options.eos_token_ids = each.at("eos_token_ids").get<std::set<std::int64_t>>();
    const auto prompt = each.at("prompt").get<std::vector<std::int64_t>>();
    json tokens = json::array();
    const Outcome outcome =
        generate(session, prompt, options, [&](std::int64_t token, std::span<const float>) { tokens.push_back(token); });
    expect_equal(tokens, each.at("tokens"), "the generated tokens");
    expect_equal(places, each.at("calls"), "the calls");
    expect_equal<std::string>(names.at(outcome.stopped), each.at("stopped"), "why it stopped");
    expect_equal(outcome.prefill.tokens, prompt.size(), "the prompt's tokens");
  }
}

void feeds(const json& golden) {
  for (const json& each : golden.at("feeds")) {
    const std::string name = each.at("artifact");
    const Artifact artifact = Artifact::from(golden.at("artifacts").at(name));
    json calls = json::array(), places = json::array();
    Session session(std::make_unique<FakeRunner>(artifact, calls, places), artifact);
    for (const json& feed : each.at("feeds")) {
      const auto ids = feed.get<std::vector<std::int64_t>>();
      const auto wanted = fake_logits(artifact.vocabulary, ids.back(),
                                      session.position() + static_cast<std::int64_t>(ids.size()) - 1);
      expect_equal(session.feed(ids), wanted, name + ": the logits");
    }
    expect_equal(calls.size(), each.at("calls").size(), name + ": how many calls");
    for (std::size_t i = 0; i < std::min(calls.size(), each.at("calls").size()); ++i) {
      expect_equal(calls[i], each.at("calls")[i], name + ": call " + std::to_string(i));
    }
    session.reset();
    expect_error([&] { session.feed(std::vector<std::int64_t>(artifact.context + 1)); }, "more tokens do not fit");
    expect_error([&] { session.feed(std::vector<std::int64_t>{artifact.vocabulary}); }, "not in this model's vocabulary");
    expect_error([&] { session.feed({}); }, "nothing to feed");
  }
}

void write(const std::filesystem::path& file, const std::string& content) { std::ofstream(file) << content; }

void bundles(const json& golden, const std::filesystem::path& folder) {
  const std::string manifest = golden.at("manifest");
  for (const auto& [name, content] : golden.at("files").items()) write(folder / name, content);
  write(folder / "manifest.json", manifest);
  const Bundle bundle(folder);
  bundle.check();
  expect_equal<std::string>(bundle.sha256, golden.at("sha256"), "the manifest's checksum");
  expect_equal<std::string>(bundle.variant, "q-k=v+gqa2", "the variant");
  expect_equal(bundle.eos_token_ids, std::set<std::int64_t>{0, 3}, "what ends a text");
  expect_error([&] { bundle.target("executorch"); }, "holds coreml, onnx, not 'executorch'");
  write(folder / "model.bin", "the modem");
  expect_error([&] { bundle.check(); }, "'model.bin' is not the file that was exported");
  std::filesystem::remove(folder / "model.bin");
  expect_error([&] { bundle.check(); }, "'model.bin' is missing");
  const auto changed = [&](const std::string& from, const std::string& to, const std::string& words) {
    std::string text = manifest;
    text.replace(text.find(from), from.size(), to);
    write(folder / "manifest.json", text);
    expect_error([&] { Bundle{folder}; }, words);
  };
  changed("\"format\": 2", "\"format\": 1", "reads format 2. Export the model again");
  changed("\"format\": 2", "\"format\": 3", "reads format 2. Update this program");
  changed("\"decoder\"", "\"encoder\"", "holds an encoder, which continues no text");
  changed("\"vocab_size\"", "\"vocabulary\"", "vocab_size");
  changed("{", "", "is damaged");
  expect_error([&] { Bundle{folder / "none"}; }, "no manifest.json");
}

}  // namespace

int main(int, char** arguments) {
  std::ifstream file(arguments[1]);
  const json golden = json::parse(file);
  sampling(golden.at("sampling"));
  generation(golden);
  feeds(golden);
  bundles(golden.at("bundle"), arguments[2]);
  if (failures == 0) std::cout << "the sample's own code computes what edgeqkv does\n";
  return failures == 0 ? 0 : 1;
}
