// The records of `manifest.json` that an app reads; all of them are described in edgeqkv/bundle/manifest.py.

/// The type of a tensor's numbers.
public enum Dtype: String, Decodable, Sendable {
    case fp32, fp16, int8, uint8, int32, int64, bool

    public var bytes: Int {
        switch self {
        case .int64: 8
        case .fp32, .int32: 4
        case .fp16: 2
        case .int8, .uint8, .bool: 1
        }
    }
}

/// What an input is filled with, or what an output holds. Graphs are called by this, never by names.
public enum Role: String, Decodable, Sendable {
    case tokens, positions, start, length, mask, pixels, features, image, logits, state
    case logitIndex = "logit_index"
}

/// Who writes new rows to a state tensor: the graph where it lies, the caller who gets them alone, or the runtime.
public enum StateUpdate: String, Decodable, Sendable {
    case rows, runtime
    case inPlace = "in_place"
}

/// One size of a shape: a number, or the name of what varies from call to call.
public enum Size: Decodable, Equatable, Sendable {
    case fixed(Int)
    case named(String)

    public init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if let size = try? value.decode(Int.self) {
            self = .fixed(size)
        } else {
            self = .named(try value.decode(String.self))
        }
    }
}

/// An input or output of a graph.
public struct TensorSpec: Decodable, Equatable, Sendable {
    public var name: String
    public var dtype: Dtype
    public var shape: [Size]
    public var role: Role
}

/// One thing that can be called: a function of the package that takes up to `tokens` tokens, exactly so many if
/// `fixed`, and reads `window` positions of the state (nil: all).
public struct Graph: Decodable, Equatable, Sendable {
    public var name: String
    public var file: String
    public var tokens: Int
    public var fixed: Bool
    public var window: Int?
    public var inputs: [TensorSpec]
    public var outputs: [TensorSpec]

    func has(_ role: Role) -> Bool {
        inputs.contains { $0.role == role }
    }
}

/// One tensor of the KV state (the KV cache).
public struct StateTensor: Decodable, Equatable, Sendable {
    public var name: String
    public var dtype: Dtype
    public var shape: [Int]
    public var update: StateUpdate
}

/// One target's export of a language model.
public struct Artifact: Decodable, Equatable, Sendable {
    public var target: String
    public var form: String
    public var weights: String
    public var context: Int
    public var chunk: Int
    public var vocabulary: Int
    public var graphs: [Graph]
    public var stateTensors: [StateTensor]

    enum CodingKeys: String, CodingKey {
        case target, form, weights, context, chunk, graphs
        case vocabulary = "vocab_size"
        case stateTensors = "state_tensors"
    }

    /// Memory that the KV state takes, in bytes.
    public var stateBytes: Int {
        stateTensors.reduce(0) { $0 + $1.shape.reduce($1.dtype.bytes, *) }
    }
}

/// What a file must be to be the one that was written.
public struct FileCard: Decodable, Equatable, Sendable {
    public let bytes: Int
    public let sha256: String
}
