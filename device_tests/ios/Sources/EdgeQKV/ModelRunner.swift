import CoreML
import EdgeQKVCore
import Foundation

/// A bundle opened for running. An actor, so that a model never runs on the screen's thread.
public actor ModelRunner {
    public nonisolated let bundle: ModelBundle
    public nonisolated let artifact: Artifact
    /// Bytes that the bundle's budget predicts for the model at most; nil if it was exported without one.
    public nonisolated let predicted: Int?

    private let compiled: URL
    private let tokenizer: Tokenizer
    private var session: Session?
    private nonisolated let stopping = Flag()

    public init(folder: URL) async throws {
        bundle = try ModelBundle(folder: folder, hash: sha256)
        try bundle.check()
        artifact = try bundle.target("coreml")
        predicted = try bundle.budget("coreml")?.values.max()
        guard let file = bundle.tokenizer else {
            throw EdgeQKVError("the bundle has no tokenizer: export with --tokenizer tokenizer.json")
        }
        tokenizer = try Tokenizer(file: file)
        compiled = try await MLModel.compileModel(at: folder.appending(path: artifact.graphs[0].file))
    }

    /// Forget what was before and continue the prompt, telling the text as it grows.
    public func generate(
        _ prompt: String,
        maxTokens: Int?,
        temperature: Double,
        onText: @Sendable (String) -> Void
    ) throws -> Outcome {
        stopping.value = false
        let session = try session ?? open()
        self.session = session
        session.reset()
        var stream = tokenizer.stream()
        let outcome = try session.generate(
            tokenizer.encode(prompt),
            maxTokens: maxTokens,
            sampling: Sampling(temperature: temperature),
            eosTokenIDs: bundle.eosTokenIDs,
            goOn: { !stopping.value }
        ) { onText(stream.add($0)) }
        onText(stream.end())
        return outcome
    }

    /// End the generation that is under way, before its next token.
    public nonisolated func stop() {
        stopping.value = true
    }

    /// Measure a run that fills the context, with a model opened for it alone: `device-report.json`.
    ///
    /// Memory is counted above what the app takes before. What a framework loads it may keep, so only the first thing
    /// that an app does with a model shows all that it costs.
    public func measure(app: Software) throws -> (report: Data, outcome: Outcome) {
        session = nil
        let before = ThisDevice.thermalState
        let run = try DeviceRun.measure(
            context: artifact.context,
            tokenizer: tokenizer,
            probe: ThisDevice.footprintBytes,
            open: open
        )
        let system = ThisDevice.system
        let report = DeviceReport(
            of: run,
            target: artifact.target,
            manifestSHA256: bundle.sha256,
            app: app,
            device: ThisDevice.device,
            system: system,
            runtime: Software(name: "coreml", version: "of the system", settings: "\(units); compiled before"),
            memoryFigure: ThisDevice.memoryFigure,
            limitBytes: ThisDevice.limitBytes(),
            thermal: Thermal(before: before, after: ThisDevice.thermalState)
        )
        return (try report.json(), run.outcome)
    }

    private var units: String {
        CoreMLRunner.units(of: artifact) == .cpuAndNeuralEngine ? "CPU and Neural Engine" : "CPU and GPU"
    }

    private func open() throws -> Session {
        Session(try CoreMLRunner(compiled: compiled, artifact: artifact), artifact)
    }
}

/// A switch that one thread sets and another reads.
private final class Flag: @unchecked Sendable {
    private let lock = NSLock()
    private var set = false

    var value: Bool {
        get { lock.withLock { set } }
        set { lock.withLock { set = newValue } }
    }
}
