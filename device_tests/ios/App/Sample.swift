import EdgeQKV
import EdgeQKVCore
import Foundation
import Observation

/// The sample's state and what its buttons do.
@MainActor
@Observable
final class Sample {
    var facts = "Choose the folder of a bundle."
    var text = ""
    var running = false
    /// The last measurement, as `device-report.json`.
    var report: URL?
    private(set) var runner: ModelRunner?

    func open(_ folder: URL) async {
        await work {
            let allowed = folder.startAccessingSecurityScopedResource()
            defer { if allowed { folder.stopAccessingSecurityScopedResource() } }
            self.runner = try await ModelRunner(folder: folder)
            self.facts = self.describe()
        }
    }

    func generate(_ prompt: String, temperature: Double) async {
        await work {
            guard let runner = self.runner else { return }
            self.text = prompt
            let (pieces, feed) = AsyncStream.makeStream(of: String.self)
            let generation = Task {
                defer { feed.finish() }
                return try await runner.generate(prompt, maxTokens: 200, temperature: temperature) { feed.yield($0) }
            }
            for await piece in pieces { self.text += piece }
            self.facts = try await self.describe() + "\n" + Self.describe(generation.value)
        }
    }

    func measure() async {
        await work {
            guard let runner = self.runner else { return }
            self.text = "Measuring…"
            let (report, outcome) = try await runner.measure(app: Software(name: "edgeqkv-ios", version: "0.1.0"))
            let file = URL.documentsDirectory.appending(path: "device-report.json")
            try report.write(to: file)
            self.report = file
            self.text = String(decoding: report, as: UTF8.self)
            self.facts = self.describe() + "\n" + Self.describe(outcome)
        }
    }

    private func describe() -> String {
        guard let runner else { return "" }
        let artifact = runner.artifact
        let lines: [String?] = [
            "\(runner.bundle.variant), Core ML \(artifact.form), \(artifact.weights) weights",
            "context \(artifact.context), KV state \(Self.megabytes(artifact.stateBytes))",
            runner.predicted.map { "the budget predicts \(Self.megabytes($0)) for the model" },
            "this process takes \(Self.megabytes(ThisDevice.footprintBytes())), the app's own included",
            ThisDevice.limitBytes().map { "and may take \(Self.megabytes($0)) in all" },
        ]
        return lines.compactMap { $0 }.joined(separator: "\n")
    }

    private static func describe(_ outcome: Outcome) -> String {
        let speeds = [outcome.prefill, outcome.decode].map { String(format: "%.1f", $0.tokensPerSecond) }
        return "prefill \(speeds[0]) tokens/s, decode \(speeds[1]) tokens/s"
    }

    private static func megabytes(_ bytes: Int) -> String {
        String(format: "%.1f MB", Double(bytes) / 1e6)
    }

    /// Do something while the buttons wait; what goes wrong is shown.
    private func work(_ block: () async throws -> Void) async {
        running = true
        defer { running = false }
        do {
            try await block()
        } catch {
            facts = error.localizedDescription
        }
    }
}
