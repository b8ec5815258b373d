import EdgeQKV
import EdgeQKVCore
import Foundation
import Observation

/// The sample's state and what its buttons do.
@MainActor
@Observable
final class Sample {
    /// What is known of the bundle.
    private(set) var facts = "No bundle is open. Open the folder that 'edgeqkv export' wrote."
    /// What went wrong, or how fast it went.
    private(set) var status = ""
    private(set) var text = ""
    private(set) var running = false
    /// The last measurement, as `device-report.json`.
    private(set) var report: URL?
    private var runner: ModelRunner?
    private var conversation: [Message] = []

    /// Whether the model that is open can chat.
    var chats: Bool { runner?.bundle.chat != nil }

    func open(_ picked: Result<URL, any Error>) async {
        await work {
            let folder = try picked.get()
            let allowed = folder.startAccessingSecurityScopedResource()
            defer { if allowed { folder.stopAccessingSecurityScopedResource() } }
            self.status = "Reading, checking and compiling the bundle…"
            self.runner = nil
            self.conversation = []
            self.text = ""
            self.runner = try await ModelRunner(folder: folder)
            self.facts = self.describe()
            self.status = ""
        }
    }

    func generate(_ prompt: String, temperature: Double) async {
        await work {
            let runner = try self.needRunner()
            self.text = prompt
            let (_, outcome) = try await self.run(runner, prompt, temperature: temperature)
            self.status = Self.describe(outcome)
        }
    }

    /// Say something to the model, after all that was said before.
    func say(_ message: String, temperature: Double) async {
        await work {
            let runner = try self.needRunner()
            guard let chat = runner.bundle.chat else {
                throw EdgeQKVError("this bundle has no chat template. Continue a text instead")
            }
            let asked = self.conversation + [Message(role: .user, content: message)]
            self.text += (self.conversation.isEmpty ? "" : "\n\n") + "You: \(message)\n\nModel: "
            let prompt = try chat.written(asked)
            let (answer, outcome) = try await self.run(runner, prompt, temperature: temperature)
            self.conversation = asked + [Message(role: .assistant, content: answer)]
            self.status = Self.describe(outcome)
        }
    }

    /// Begin a new conversation, or an empty page.
    func clear() {
        conversation = []
        text = ""
        status = ""
    }

    func stop() {
        runner?.stop()
    }

    func measure() async {
        await work {
            let runner = try self.needRunner()
            self.clear()
            self.status = "Measuring…"
            let (report, outcome) = try await runner.measure(app: Software(name: "edgeqkv-ios", version: "0.1.0"))
            let file = URL.documentsDirectory.appending(path: "device-report.json")
            try report.write(to: file)
            self.report = file
            self.text = String(decoding: report, as: UTF8.self)
            self.status = Self.describe(outcome)
        }
    }

    /// Continue a prompt, showing the text as it grows; what was written.
    private func run(_ runner: ModelRunner, _ prompt: String, temperature: Double) async throws -> (String, Outcome) {
        status = "Writing…"
        let (pieces, feed) = AsyncStream.makeStream(of: String.self)
        let generation = Task {
            defer { feed.finish() }
            return try await runner.generate(prompt, maxTokens: 200, temperature: temperature) { feed.yield($0) }
        }
        var written = ""
        for await piece in pieces {
            written += piece
            text += piece
        }
        return (written, try await generation.value)
    }

    private func needRunner() throws -> ModelRunner {
        guard let runner else { throw EdgeQKVError("no bundle is open: press Open and choose its folder first") }
        return runner
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
        let full = outcome.stopped == .contextFull ? "\nThe context is full: clear it to begin anew." : ""
        return "prefill \(speeds[0]) tokens/s, decode \(speeds[1]) tokens/s\(full)"
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
            status = error.localizedDescription
        }
    }
}
