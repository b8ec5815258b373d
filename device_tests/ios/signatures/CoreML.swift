// Signatures that the package uses of Core ML; APIS.md says where each was checked.
import Foundation

public protocol MLFeatureProvider: AnyObject {
    func featureValue(for featureName: String) -> MLFeatureValue?
}

public class MLFeatureValue: NSObject {
    public var multiArrayValue: MLMultiArray? { fatalError() }
}

public class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    public init(dictionary: [String: Any]) throws { fatalError() }
    public func featureValue(for featureName: String) -> MLFeatureValue? { fatalError() }
}

public enum MLMultiArrayDataType: Int {
    case int32
    case float16
    case float32
}

public class MLMultiArray: NSObject {
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws { fatalError() }
    public subscript(index: Int) -> NSNumber {
        get { fatalError() }
        set { fatalError() }
    }
}

public protocol MLShapedArrayScalar {}
extension Float: MLShapedArrayScalar {}

public struct MLShapedArray<Scalar: MLShapedArrayScalar> {
    public init(converting multiArray: MLMultiArray) { fatalError() }
    public var scalars: [Scalar] { fatalError() }
}

public enum MLComputeUnits: Int {
    case cpuAndGPU
    case cpuAndNeuralEngine
}

public class MLModelConfiguration: NSObject {
    public var computeUnits: MLComputeUnits = .cpuAndGPU
    public var functionName: String?
}

public final class MLState: Sendable {}

public class MLModel: NSObject {
    public convenience init(contentsOf url: URL, configuration: MLModelConfiguration) throws { fatalError() }
    public class func compileModel(at modelURL: URL) async throws -> URL { fatalError() }
    public func makeState() -> MLState { fatalError() }
    public func prediction(from inputFeatures: any MLFeatureProvider, using state: MLState) throws
        -> any MLFeatureProvider
    { fatalError() }
}
