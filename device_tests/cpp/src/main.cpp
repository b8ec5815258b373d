// Continue a prompt with a bundle, and print the tokens.
#include <charconv>
#include <fstream>
#include <iostream>
#include <string>

#include "generation.hpp"
#ifdef EDGEQKV_ONNX
#include "onnx_runner.hpp"
#endif
#ifdef EDGEQKV_EXECUTORCH
#include "executorch_runner.hpp"
#endif

namespace {

using namespace edgeqkv;

constexpr const char* kUsage =
    "edgeqkv-sample BUNDLE --ids 1,2,3 [--target onnx|executorch] [--tokens N] [--temperature T] [--top-k K] [--top-p P] "
    "[--seed S] [--threads N] [--logits FILE]\n"
    "Prints the ids of the tokens that continue the prompt; --logits writes what they were chosen from, as float32.";

struct Asked {
  std::string bundle;
  std::string target;
  std::vector<std::int64_t> ids;
  std::string logits;
  int threads = 0;
  Options options;
};

template <typename Number>
Number number(const std::string& text, const std::string& what) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) throw Error(what + " is '" + text + "', not a number");
  return value;
}

Asked parse(const std::vector<std::string>& arguments) {
  Asked asked;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    if (!name.starts_with("--")) {
      asked.bundle = name;
      continue;
    }
    if (++i == arguments.size()) throw Error(name + " needs a value");
    const std::string& value = arguments[i];
    Sampling& sampling = asked.options.sampling;
    if (name == "--target") asked.target = value;
    else if (name == "--logits") asked.logits = value;
    else if (name == "--tokens") asked.options.max_tokens = number<std::size_t>(value, name);
    else if (name == "--seed") asked.options.seed = number<unsigned>(value, name);
    else if (name == "--threads") asked.threads = number<int>(value, name);
    else if (name == "--temperature") sampling.temperature = number<double>(value, name);
    else if (name == "--top-k") sampling.top_k = number<std::size_t>(value, name);
    else if (name == "--top-p") sampling.top_p = number<double>(value, name);
    else if (name == "--ids") {
      for (std::size_t start = 0; start <= value.size();) {
        const std::size_t end = std::min(value.find(',', start), value.size());
        asked.ids.push_back(number<std::int64_t>(value.substr(start, end - start), "a token of --ids"));
        start = end + 1;
      }
    } else {
      throw Error("there is no option " + name + ". " + kUsage);
    }
  }
  if (asked.bundle.empty() || asked.ids.empty()) throw Error(kUsage);
  if (!(asked.options.sampling.temperature >= 0)) throw Error("--temperature is 0 or more");
  if (!(asked.options.sampling.top_p > 0 && asked.options.sampling.top_p <= 1)) {
    throw Error("--top-p is above 0, at most 1");
  }
  return asked;
}

std::unique_ptr<Runner> open(const Bundle& bundle, const Artifact& artifact, [[maybe_unused]] int threads) {
#ifdef EDGEQKV_ONNX
  if (artifact.target == "onnx") return std::make_unique<OnnxRunner>(bundle.folder, artifact, threads);
#endif
#ifdef EDGEQKV_EXECUTORCH
  if (artifact.target == "executorch") return std::make_unique<ExecuTorchRunner>(bundle.folder, artifact);
#endif
  throw Error("this program was built without the runtime for '" + artifact.target + "'; see its README.md");
}

void run(Asked asked) {
  const Bundle bundle(asked.bundle);
  bundle.check();
  const Artifact& artifact = bundle.target(asked.target);
  Session session(open(bundle, artifact, asked.threads), artifact);
  asked.options.eos_token_ids = bundle.eos_token_ids;
  std::ofstream logits;
  if (!asked.logits.empty()) logits.open(asked.logits, std::ios::binary);
  const Outcome outcome =
      generate(session, asked.ids, asked.options, [&](std::int64_t token, std::span<const float> from) {
        std::cout << token << ' ' << std::flush;
        if (logits.is_open()) {
          logits.write(reinterpret_cast<const char*>(from.data()), static_cast<std::streamsize>(from.size_bytes()));
        }
      });
  std::cout << std::endl;
  const auto speed = [](const Run& run) { return static_cast<double>(run.tokens) / run.seconds; };
  std::cerr << bundle.variant << ", " << artifact.target << ' ' << artifact.form << ", " << artifact.weights
            << " weights: prefill " << speed(outcome.prefill) << " tokens/s, decode " << speed(outcome.decode)
            << " tokens/s\n";
}

}  // namespace

int main(int count, char** arguments) {
  try {
    run(parse({arguments + 1, arguments + count}));
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 2;
  }
}
