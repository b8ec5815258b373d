import CoreML
import EdgeQKVCore
import Foundation

/// A Core ML export in Core ML, its functions on one `MLState`; see docs/coreml.md for what the package promises.
public final class CoreMLRunner: Runner {
    /// By the graphs' names.
    private let functions: [String: MLModel]
    private let state: MLState

    /// - Parameter compiled: what `MLModel.compileModel(at:)` made of the package.
    public init(compiled: URL, artifact: Artifact) throws {
        guard artifact.stateTensors.allSatisfy({ $0.update == .runtime }) else {
            throw EdgeQKVError("this app takes a state that Core ML holds, unlike that of the form \(artifact.form)")
        }
        var functions: [String: MLModel] = [:]
        for graph in artifact.graphs {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = Self.units(of: artifact)
            // A package of one function is loaded without naming it.
            if artifact.graphs.count > 1 { configuration.functionName = graph.name }
            functions[graph.name] = try MLModel(contentsOf: compiled, configuration: configuration)
        }
        guard let first = artifact.graph(for: 1, at: 0).flatMap({ functions[$0.name] }) else {
            throw EdgeQKVError("the package has no function for a single token")
        }
        self.functions = functions
        state = first.makeState()
    }

    public func run(_ call: Call) throws -> [Float] {
        var inputs: [String: MLMultiArray] = [:]
        for input in try call.inputs() {
            inputs[input.spec.name] = try Self.array(input)
        }
        guard let function = functions[call.graph.name] else {
            throw EdgeQKVError("the package has no function '\(call.graph.name)'")
        }
        let outputs = try function.prediction(from: MLDictionaryFeatureProvider(dictionary: inputs), using: state)
        guard let name = call.graph.outputs.first(where: { $0.role == .logits })?.name,
            let logits = outputs.featureValue(for: name)?.multiArrayValue
        else { throw EdgeQKVError("the function '\(call.graph.name)' gives no logits") }
        return MLShapedArray<Float>(converting: logits).scalars
    }

    private static func array(_ input: Input) throws -> MLMultiArray {
        let type: MLMultiArrayDataType
        switch input.spec.dtype {
        case .int32: type = .int32
        case .fp16: type = .float16
        case .fp32: type = .float32
        default: throw EdgeQKVError("Core ML takes no inputs of type \(input.spec.dtype), as '\(input.spec.name)' is")
        }
        let array = try MLMultiArray(shape: input.shape.map { NSNumber(value: $0) }, dataType: type)
        for (index, value) in input.values.enumerated() { array[index] = NSNumber(value: value) }
        return array
    }

    /// The conv forms are laid out for the Neural Engine.
    static func units(of artifact: Artifact) -> MLComputeUnits {
        artifact.form.hasPrefix("conv") ? .cpuAndNeuralEngine : .cpuAndGPU
    }
}
