import CoreML
import EdgeQKVCore
import Foundation

/// A Core ML export in Core ML, its functions on one `MLState`; see docs/coreml.md for what the package promises.
public final class CoreMLModel: LanguageModel {
    /// By the number of tokens that a function takes: `prefill` a chunk, `decode` one.
    private let functions: [Int: MLModel]
    private let state: MLState

    /// - Parameter compiled: what `MLModel.compileModel(at:)` made of the package.
    public init(compiled: URL, artifact: Artifact) throws {
        guard artifact.graphs.allSatisfy(\.fixed) else {
            throw EdgeQKVError("the form \(artifact.form) is for another runner; export with --form linear or conv")
        }
        var functions: [Int: MLModel] = [:]
        for graph in artifact.graphs {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = Self.units(of: artifact)
            configuration.functionName = graph.name
            functions[graph.tokens] = try MLModel(contentsOf: compiled, configuration: configuration)
        }
        guard let decode = functions[1] else { throw EdgeQKVError("the package has no function for a single token") }
        self.functions = functions
        state = decode.makeState()
    }

    public func step(_ ids: [Int], at position: Int) throws -> [Float] {
        guard let function = functions[ids.count] else {
            throw EdgeQKVError("no function takes \(ids.count) tokens, only \(functions.keys.sorted())")
        }
        let tokens = MLShapedArray<Int32>(scalars: ids.map(Int32.init), shape: [1, ids.count])
        let start = MLShapedArray<Int32>(scalars: [Int32(position)], shape: [1])
        let inputs = try MLDictionaryFeatureProvider(dictionary: [
            "input_ids": MLMultiArray(tokens), "position": MLMultiArray(start),
        ])
        let outputs = try function.prediction(from: inputs, using: state)
        guard let logits = outputs.featureValue(for: "logits")?.multiArrayValue else {
            throw EdgeQKVError("the package gives no 'logits'")
        }
        return MLShapedArray<Float>(converting: logits).scalars
    }

    /// The conv forms are laid out for the Neural Engine.
    static func units(of artifact: Artifact) -> MLComputeUnits {
        artifact.form.hasPrefix("conv") ? .cpuAndNeuralEngine : .cpuAndGPU
    }
}
